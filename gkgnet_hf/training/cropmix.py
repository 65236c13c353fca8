"""CropMix, the augmentation that blends crops of one image (https://arxiv.org/abs/2205.15955)."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

NUM_VIEWS = (2, 4)  # least and most
SMALLEST_AREA = 0.01  # of the image
NEAR_WHOLE_AREA = (0.99, 1.0)
BETA = 0.4


class CropMix(v2.Transform):
    """Blend an image with crops of itself, of different scales.

    Two to four views of `size`: one near-whole, the others random resized crops, each from its own band of areas. In
    random order each view is blended into those before it, with a weight from Beta(0.4/n, 0.4/n), which is mostly near
    0 or 1; of the two that meet, the lighter has its colour channels permuted. Everything random is torch's.

    Args:
        size: (H, W) of what comes out.

    Raises:
        TypeError: for anything but a uint8 tensor (..., 3, H, W).

    >>> image = torch.randint(256, (3, 48, 64), dtype=torch.uint8)
    >>> CropMix((32, 32))(image).shape
    torch.Size([3, 32, 32])
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        for image in flat_inputs:
            if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.shape[-3:-2] != (3,):
                found = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
                raise TypeError(f"CropMix takes uint8 tensors (..., 3, H, W), got {found}")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Boxes of the views in the order they are blended, weights and permutations: everything that is random."""
        height, width = v2.query_size(flat_inputs)
        num_views = int(torch.randint(NUM_VIEWS[0], NUM_VIEWS[1] + 1, ()))
        crops = [v2.RandomResizedCrop(self.size, scale=band) for band in _bands(num_views)]
        # With its usual aspect ratios RandomResizedCrop could not take nearly the whole of a wide image.
        crops.append(v2.RandomResizedCrop(self.size, scale=NEAR_WHOLE_AREA, ratio=(width / height, width / height)))
        boxes = [crop.make_params(flat_inputs) for crop in crops]
        return {
            "boxes": [boxes[i] for i in torch.randperm(num_views)],
            "weights": Beta(BETA / num_views, BETA / num_views).sample((num_views - 1,)).tolist(),
            "permutations": [torch.randperm(3) for _ in range(num_views - 1)],
        }

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        views = (
            F.resized_crop(
                inpt, **box, size=list(self.size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True
            ).float()
            for box in params["boxes"]
        )
        mixed = next(views)
        for view, weight, permutation in zip(views, params["weights"], params["permutations"], strict=True):
            if weight < 0.5:
                mixed = mixed[..., permutation, :, :]
            else:
                view = view[..., permutation, :, :]
            mixed = torch.lerp(view, mixed, weight)
        return mixed.round_().clamp_(0, 255).to(torch.uint8)


def _bands(num_views: int) -> list[tuple[float, float]]:
    """Areas of all views but the near-whole one, as fractions of the image."""
    if num_views == 2:
        return [(SMALLEST_AREA, 1.0)]
    step = (1 - SMALLEST_AREA) / num_views
    return [(SMALLEST_AREA + i * step, SMALLEST_AREA + (i + 1) * step) for i in range(num_views - 1)]
