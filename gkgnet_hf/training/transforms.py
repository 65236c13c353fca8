"""From dataset rows to model inputs."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import BaseImageProcessor


def processor_transform(processor: BaseImageProcessor) -> Callable[[dict[str, list]], dict[str, Any]]:
    """A transform for `Dataset.with_transform`: the image processor's own preprocessing, nothing random.

    Args:
        processor: the model's image processor.

    Returns:
        Function from a batch with `image` and `labels` to `pixel_values` (B, 3, H, W) and `labels` (B, L), float32.

    Example:

        dataset = load_coco(images, annotations).with_transform(processor_transform(processor))
    """

    def transform(batch: dict[str, list]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in batch["image"]]
        return {
            "pixel_values": processor(images, return_tensors="pt")["pixel_values"],
            "labels": torch.tensor(batch["labels"], dtype=torch.float32),
        }

    return transform
