"""An average of the weights over training, which is evaluated and saved in place of the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn
from transformers import TrainerCallback


class WeightAverage(TrainerCallback):
    """Exponential moving average of parameters and batch statistics, by timm's `ModelEmaV3`, once an optimiser step.

    Args:
        model: whose weights are averaged; it keeps its own.
        decay: reached after a warm-up, so that short runs average too.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.average = ModelEmaV3(model, decay=decay, use_warmup=True)
        self.swapped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the Trainer."""
        self.average.update(kwargs["model"], step=state.global_step)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within it `model` holds the average."""
        if self.swapped:
            yield
            return
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        self.swapped = not self.swapped
        average = self.average.module.state_dict()
        for name, tensor in model.state_dict().items():
            kept = tensor.clone()
            tensor.copy_(average[name])
            average[name].copy_(kept)
