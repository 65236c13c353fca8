"""GKGNet's preprocessing, by transformers' stock ViT processor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from transformers import BaseImageProcessor, ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .configuration_gkgnet import GKGNetConfig


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
