"""What a model is and what it computes, in a form that two processes can compare."""

import hashlib
import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .drawing import draw_image

IMAGE = draw_image((1, 3, 64, 64), seed=0)
PHOTO = Image.fromarray((255 * draw_image((80, 100, 3), seed=1).sigmoid()).byte().numpy())
TOLERANCE = 1e-4


@torch.no_grad()
def fingerprint(model: nn.Module, output: str | None = None) -> dict[str, Any]:
    """The weights and buffers to the bit, whatever their names, and what the model says about `IMAGE`.

    Args:
        output: the one output that counts; without it all do.
    """
    weights = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values()))
    outputs = model(IMAGE) if output is None else model(IMAGE)[output]
    return {"weights": weights.hexdigest(), "outputs": _numbers(outputs)}


def _numbers(outputs: Any) -> list[Any]:
    if isinstance(outputs, Tensor):
        return outputs.flatten().tolist()
    values = outputs.values() if isinstance(outputs, dict) else outputs
    numbers = [_numbers(value) for value in values]
    return numbers[0] if len(numbers) == 1 else numbers


def agree(found: Any, expected: Any) -> bool:
    """Whether two results are equal, floats within rounding: where weights lie in memory changes the last digit.

    A list of floats counts as a whole, as in `assert_alike`.

    >>> agree({"weights": "ab", "outputs": [1.0]}, {"weights": "ab", "outputs": [1.0000001]})
    True
    """
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(agree(found[key], expected[key]) for key in expected)
    if isinstance(expected, list) and len(found) == len(expected):
        if all(isinstance(value, float) for value in found + expected):
            return math.dist(found, expected) <= TOLERANCE * math.hypot(*expected)
        return all(map(agree, found, expected))
    if isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=TOLERANCE)
    return found == expected
