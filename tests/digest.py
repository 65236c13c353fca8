"""What a model computes, in a form that two processes can compare."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .drawing import draw_image

IMAGE = draw_image((1, 3, 64, 64), seed=0)
PHOTO = Image.fromarray((255 * draw_image((80, 100, 3), seed=1).sigmoid()).byte().numpy())


@torch.no_grad()
def digest(model: Any) -> str:
    """A name for what the model computes, to the bit."""
    outputs = model(IMAGE)
    tensors = [outputs] if isinstance(outputs, Tensor) else _tensors(outputs)
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def _tensors(outputs: Any) -> Iterator[Tensor]:
    for value in outputs.values():
        yield from value if isinstance(value, tuple) else [value]
