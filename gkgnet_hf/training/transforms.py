"""From images to model inputs, for training and for evaluation."""

from collections.abc import Callable
from functools import partial

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from transformers import ViTImageProcessor

from .cropmix import CropMix
from .erasing import NoiseErasing

Transform = Callable[[Image.Image], Tensor]
AUGMENTATIONS = ("paper", "light", "none")
BICUBIC = v2.InterpolationMode.BICUBIC


def train_transform(processor: ViTImageProcessor, augmentation: str = "paper") -> Transform:
    """What a training image goes through; image size, mean and deviation are the processor's.

    Args:
        processor: the model's image processor.
        augmentation: "paper": CropMix or a plain resize, flip, erasing, colour jitter, TrivialAugment
            (https://arxiv.org/abs/2103.10158). "light": a crop of at least half the image, flip and mild jitter, for
            few labels and few images. "none": `eval_transform`.

    Returns:
        Function from a PIL image of any mode to (3, H, W) float32; its randomness is torch's.

    Raises:
        ValueError: for another augmentation, or a processor that does not resize to a height and a width.

    >>> from gkgnet_hf import GKGNetConfig, create_image_processor
    >>> processor = create_image_processor(GKGNetConfig.from_variant("ti", image_size=224))
    >>> train_transform(processor, "light")(Image.new("L", (640, 480))).shape
    torch.Size([3, 224, 224])
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    if augmentation == "none":
        return eval_transform(processor)
    size, mean, std = _size(processor), processor.image_mean, processor.image_std
    if augmentation == "paper":
        augment = [
            v2.RandomChoice([CropMix(size), v2.Resize(size, BICUBIC)]),
            v2.RandomHorizontalFlip(),
            NoiseErasing(mean, std),
            v2.ToPILImage(),  # Pillow changes the colours of one image in half the time
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            v2.TrivialAugmentWide(),
            v2.PILToTensor(),
        ]
    else:
        augment = [
            v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.ToPILImage(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.PILToTensor(),
        ]
    normalize = [v2.ToDtype(torch.float32), v2.Normalize([255 * m for m in mean], [255 * s for s in std], inplace=True)]
    return v2.Compose([to_rgb, v2.PILToTensor(), *augment, torch.Tensor.contiguous, *normalize])


def eval_transform(processor: ViTImageProcessor) -> Transform:
    """The image processor itself, as a function from a PIL image of any mode to (3, H, W) float32."""
    return partial(_process, processor=processor)


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


def _process(image: Image.Image, processor: ViTImageProcessor) -> Tensor:
    return processor(images=[to_rgb(image)], return_tensors="pt")["pixel_values"][0]


def _size(processor: ViTImageProcessor) -> tuple[int, int]:
    height, width = processor.size.get("height"), processor.size.get("width")
    if not (height and width):
        raise ValueError(f"The image processor must resize to a height and a width, its size is {processor.size}")
    return height, width
