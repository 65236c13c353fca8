"""GKGNet's preprocessing, by transformers' stock ViT processor."""

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
