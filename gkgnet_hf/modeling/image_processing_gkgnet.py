"""GKGNet's preprocessing, by transformers' stock ViT processor."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, BaseImageProcessor, ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .configuration_gkgnet import MAX_SIDE, GKGNetConfig, one_line

SWITCHES = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_pad")
SIZES = ("size", "crop_size", "pad_size")


def create_image_processor(config: GKGNetConfig) -> ViTImageProcessor:
    """The processor for images of `config.image_size`: bicubic resize without crop, ImageNet mean and deviation.

    Save it beside the model, so that `AutoImageProcessor` and `pipeline` find it. With three channels it takes images
    of any mode. With another number of channels it takes images that have them, and every channel gets the average of
    ImageNet's means and deviations.

    >>> processor = create_image_processor(GKGNetConfig.from_variant("s", image_size=448))
    >>> processor.size["height"], processor.size["width"]
    (448, 448)
    """
    height, width = config.image_height_width
    mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    if config.num_channels != 3:
        mean, std = ([sum(values) / 3] * config.num_channels for values in (mean, std))
    return ViTImageProcessor(
        size={"height": height, "width": width},
        resample=PILImageResampling.BICUBIC,
        image_mean=mean,
        image_std=std,
        do_convert_rgb=config.num_channels == 3,
    )


def load_image_processor(model: str, num_channels: int) -> BaseImageProcessor:
    """The image processor of a model's folder or repository, checked. Code that stands beside it is never run.

    Args:
        model: folder, or name on the Hub as "user/name".
        num_channels: of the model's images.

    Raises:
        OSError: if there is none.
        ValueError: if it is no image processor of transformers, or does not prepare images for this model; as in
            `check_image_processor`.

    Example:

        processor = load_image_processor("my-gkgnet", num_channels=3)
    """
    odd = (AttributeError, KeyError, MemoryError, OverflowError, RecursionError, RuntimeError, TypeError)
    try:
        content, _ = BaseImageProcessor.get_image_processor_dict(model)
        kind = content.get("image_processor_type", ViTImageProcessor.__name__)
        if not isinstance(kind, str) or not _is_image_processor(kind):
            raise ValueError(
                f"image_processor_type must be the name of an image processor of transformers, got {kind!r:.100}; code "
                "that comes with a model is not run"
            )
        if hiding := sorted(n for n in content if n == "self" or callable(getattr(BaseImageProcessor, n, None))):
            raise ValueError(f"An image processor has no field {hiding[0]!r:.100}: it would hide what the class has")
        _check_fields(content, num_channels)
        loader: Any = AutoImageProcessor if "image_processor_type" in content else ViTImageProcessor
        processor: BaseImageProcessor = loader.from_pretrained(model, trust_remote_code=False)
        check_image_processor(processor, num_channels)
        prepared = to_pixel_values(processor, [np.zeros((48, 64, num_channels), dtype=np.uint8)])
    except odd as error:
        raise ValueError(f"The image processor of {model} cannot be used: {one_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"The image processor of {model}: {one_line(error)}") from error
    if prepared.ndim != 4 or prepared.shape[1] != num_channels:
        raise ValueError(
            f"The image processor of {model} must give (batch, {num_channels}, height, width), got "
            f"{tuple(prepared.shape)}"
        )
    return processor


def _is_image_processor(name: str) -> bool:
    found = getattr(transformers, name, None) if name.isidentifier() else None
    return isinstance(found, type) and issubclass(found, BaseImageProcessor)


def check_image_processor(processor: BaseImageProcessor, num_channels: int) -> None:
    """Raise ValueError where a field of an image processor cannot prepare images of `num_channels`.

    Sizes must be from 1 to `MAX_SIDE` pixels. There must be one finite mean and one positive finite deviation a
    channel.

    >>> check_image_processor(create_image_processor(GKGNetConfig()), num_channels=3)
    """
    names = (*SWITCHES, *SIZES, "resample", "rescale_factor", "image_mean", "image_std")
    _check_fields({name: getattr(processor, name, None) for name in names}, num_channels)


def _check_fields(fields: Mapping[str, Any], num_channels: int) -> None:
    for name in SWITCHES:
        if not isinstance(fields.get(name), bool | None):
            raise ValueError(f"{name} must be true or false, got {fields[name]!r:.100}")
    for name in SIZES:
        sides = fields.get(name)
        try:
            sides = dict(sides or {})
        except (TypeError, ValueError):  # one side
            sides = {name: sides}
        for side, pixels in sides.items():
            if pixels is not None and not (type(pixels) is int and 1 <= pixels <= MAX_SIDE):
                of = f" of {name}" if side != name else ""
                raise ValueError(f"{side}{of} must be from 1 to {MAX_SIDE} pixels, got {pixels!r:.100}")
    resample, factor = fields.get("resample"), fields.get("rescale_factor")
    if resample is not None and (isinstance(resample, bool) or resample not in list(PILImageResampling)):
        raise ValueError(f"resample must be from 0 to {max(PILImageResampling):d}, got {resample!r:.100}")
    if factor is not None and not (_is_number(factor) and factor > 0):
        raise ValueError(f"rescale_factor must be a positive number, got {factor!r:.100}")
    for name in ("image_mean", "image_std"):
        values = fields.get(name)
        if values is None:
            continue
        if not isinstance(values, (list, tuple)) or not all(map(_is_number, values)):
            raise ValueError(f"{name} must be a list of numbers, one a channel, got {values!r:.100}")
        if len(values) != num_channels:
            raise ValueError(f"{name} must have one value for each of {num_channels} channels, got {len(values):,}")
        if name == "image_std" and min(values) <= 0:
            raise ValueError(f"image_std must be positive, got {values!r:.100}")


def _is_number(value: Any) -> bool:
    """Whether a value is a number that float32 can hold."""
    return type(value) in (int, float) and abs(value) < 3e38 and not math.isnan(value)


def to_mode_of(
    processor: BaseImageProcessor, image: Image.Image | NDArray[np.number]
) -> Image.Image | NDArray[np.float32]:
    """The image as `processor` takes it.

    Args:
        processor: whose number of channels counts.
        image: of PIL, or an array (H, W, channels). For one or three channels an array holds 8-bit values, and may be
            (H, W) for grey levels.

    Returns:
        `to_rgb(image)`; for a processor of one channel its grey levels; for another number of channels the array
        (H, W, channels) that the image must be, as float32.

    Raises:
        ValueError: for an image of another number of channels, or an array that is no 8-bit image.

    >>> to_mode_of(create_image_processor(GKGNetConfig(num_channels=1)), Image.new("RGBA", (1, 1))).mode
    'L'
    """
    channels = num_channels_of(processor)
    if channels in (1, 3):
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        return to_rgb(image) if channels == 3 else to_rgb(image).convert("L")
    values = np.asarray(image, dtype=np.float32)
    if values.ndim != 3 or values.shape[-1] != channels:
        raise ValueError(f"The image processor takes {channels} channels, the image has the shape {values.shape}")
    return values


def _from_array(values: NDArray[np.number]) -> Image.Image:
    if values.dtype != np.uint8 or values.shape[2:] not in ((), (1,), (3,), (4,)) or values.ndim < 2:
        raise ValueError(
            "An array must be an 8-bit image of shape (H, W), or (H, W, channels) with 1, 3 or 4 channels, "
            f"got {values.dtype} of shape {values.shape}"
        )
    return Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)


def to_pixel_values(processor: BaseImageProcessor, images: Sequence[Image.Image | NDArray[np.number]]) -> Tensor:
    """Images of any mode → what the model takes, (B, channels, H, W) float32. Raises as `to_mode_of`.

    >>> to_pixel_values(create_image_processor(GKGNetConfig(num_channels=5)), [np.zeros((20, 30, 5), np.uint16)]).shape
    torch.Size([1, 5, 224, 224])
    """
    prepared: Any = [to_mode_of(processor, image) for image in images]
    layout: Any = {} if isinstance(prepared[0], Image.Image) else {"input_data_format": "channels_last"}
    return processor(prepared, return_tensors="pt", **layout)["pixel_values"]


def num_channels_of(processor: BaseImageProcessor) -> int:
    """The channels that an image processor takes: as many as it has means."""
    return len(getattr(processor, "image_mean", None) or "RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB image from one of any mode.

    The EXIF orientation is applied, deeper values are scaled (`to_eight_bits`), and what is transparent becomes white.
    transformers' own `pipeline` drops transparency and cuts 16 bits off at 255: give it `to_rgb(image)` of such images.

    >>> to_rgb(Image.new("RGBA", (1, 1))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.getexif().get(Image.ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):  # 16 bits are "I;16", or "I" where Pillow read them into 32
        image = Image.fromarray(to_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def to_eight_bits(values: NDArray[np.number]) -> NDArray[np.uint8]:
    """Scale pixel values of any depth to 0 … 255.

    Integers: the largest value tells whether 8, 12 or 16 bits are in use, as cameras and scanners store 12 bits in 16;
    what needs more is scaled from its smallest to its largest value. Floats: 0 … 1 and 0 … 255 are taken as full
    scales, anything else is scaled from its smallest to its largest value; NaN and infinity become 0.

    Raises:
        ValueError: if no value is finite.

    >>> to_eight_bits(np.array([0, 2048, 4095], dtype=np.uint16)), to_eight_bits(np.array([0.0, 0.5, 1.0]))
    (array([  0, 128, 255], dtype=uint8), array([  0, 128, 255], dtype=uint8))
    """
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    is_float = np.issubdtype(values.dtype, np.floating)
    values = values.astype(np.float32 if values.dtype.itemsize <= 2 or is_float else np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no pixel is a finite number")
    low, high = values.min(where=finite, initial=np.inf), values.max(where=finite, initial=-np.inf)
    full_scales = (1, 255) if is_float else (255, 4095, 65535)
    full_scale = next((scale for scale in full_scales if low >= 0 and high <= scale), None)
    low, high = (low, high) if full_scale is None else (0, full_scale)
    scaled = (values - low) * (255 / max(high - low, np.finfo(np.float32).tiny)) + 0.5
    return np.where(finite, scaled, 0).astype(np.uint8)
