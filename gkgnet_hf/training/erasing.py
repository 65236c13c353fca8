"""Random erasing with noise that looks like the dataset's pixels (https://arxiv.org/abs/1708.04896)."""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import v2


class NoiseErasing(v2.RandomErasing):
    """With probability 0.5 fill a rectangle of 0.02 to 1/3 of the image with normal noise.

    Args:
        mean, std: (3,) of the noise, as fractions of the largest pixel value, as an image processor has them.

    >>> image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    >>> NoiseErasing(mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])(image).dtype  # in and out uint8 (3, H, W)
    torch.uint8
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__(p=0.5, scale=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), value="random")
        self.mean = 255 * torch.tensor(mean)[:, None, None]
        self.std = 255 * torch.tensor(std)[:, None, None]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = super().make_params(flat_inputs)
        if params["v"] is not None:  # None: no rectangle fitted
            params["v"] = (params["v"] * self.std + self.mean).round_().clamp_(0, 255).to(torch.uint8)
        return params
