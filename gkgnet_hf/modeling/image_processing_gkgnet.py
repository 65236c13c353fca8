"""GKGNet's preprocessing, by transformers' stock ViT processor."""

from PIL import Image, ImageOps
from transformers import ViTImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .configuration_gkgnet import GKGNetConfig


def create_image_processor(config: GKGNetConfig) -> ViTImageProcessor:
    """The processor for images of `config.image_size`: bicubic resize without crop, ImageNet mean and deviation.

    Save it beside the model, so that `AutoImageProcessor` and `pipeline` find it.

    >>> processor = create_image_processor(GKGNetConfig.from_variant("s", image_size=448))
    >>> processor.size["height"], processor.size["width"]
    (448, 448)
    """
    height, width = config.image_height_width
    return ViTImageProcessor(
        size={"height": height, "width": width},
        resample=PILImageResampling.BICUBIC,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """An upright 8-bit RGB image from one of any mode.

    The EXIF orientation is applied, 16 bits are scaled to 8, and what is transparent becomes white. (transformers'
    `pipeline` drops transparency and cuts 16 bits off at 255: give it `to_rgb(image)`.)

    >>> to_rgb(Image.new("RGBA", (1, 1))).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.getexif().get(Image.ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits are "I;16", or "I" where Pillow read them into 32
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
