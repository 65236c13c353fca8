"""Weights and inputs behind the reference values: each tensor is drawn from its name and a seed."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINT_TENSORS: dict[str, dict[str, list[int]]] = json.loads((FIXTURES / "checkpoint_tensors.json").read_text())


def generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    g = generator(name, seed)
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("running_var"):
        values = g.uniform(0.5, 1.5, shape)
    elif name.endswith(("running_mean", ".bias", "pos_embed")):
        values = g.normal(0, 0.1, shape)
    elif name.endswith("label_lt.weight"):
        values = g.normal(0, 1.0, shape)
    elif len(shape) == 1:
        values = g.uniform(0.2, 0.6, shape)
    else:
        values = g.normal(0, 1.0 / np.sqrt(np.prod(shape[1:])), shape)
    return torch.from_numpy(values.astype(np.float32))


def draw_checkpoint(name: str, seed: int, num_labels: int | None = None) -> dict[str, Tensor]:
    """The tensors of a released checkpoint, without the position bias, for another label count if given."""
    tensors = {}
    for tensor, shape in CHECKPOINT_TENSORS[name].items():
        if tensor.endswith("relative_pos"):
            continue
        if num_labels and tensor.startswith(("backbone.label_lt.", "head.")):
            shape = [num_labels, *shape[1:]]
        tensors[tensor] = draw(tensor, tuple(shape), seed)
    return tensors


def draw_image(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.from_numpy(generator("pixel_values", seed).normal(0, 1, shape).astype(np.float32))


def draw_targets(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.from_numpy((generator("labels", seed).uniform(size=shape) < 0.3).astype(np.float64))
