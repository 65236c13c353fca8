"""The paper's learning-rate schedule."""

from bisect import bisect_right
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

DECAY = 0.1
WARMUP_START = 1e-3


def step_schedule(optimizer: Optimizer, milestones: list[int], warmup_steps: int) -> LambdaLR:
    """A tenth of the learning rate from each milestone on, after a linear warm-up that starts at a thousandth of it.

    Args:
        optimizer: whose learning rates are the peak.
        milestones: optimiser steps, ascending.
        warmup_steps: steps until the peak.

    >>> import torch
    >>> optimizer = torch.optim.AdamW([torch.zeros(1)], lr=1.0)
    >>> schedule = step_schedule(optimizer, milestones=[4], warmup_steps=2)
    >>> rates = []
    >>> for _ in range(6):
    ...     rates.append(round(schedule.get_last_lr()[0], 4))
    ...     optimizer.step()
    ...     schedule.step()
    >>> rates
    [0.001, 0.5005, 1.0, 1.0, 0.1, 0.1]
    """
    return LambdaLR(optimizer, partial(_factor, milestones=milestones, warmup_steps=warmup_steps))


def _factor(step: int, milestones: list[int], warmup_steps: int) -> float:
    factor = DECAY ** bisect_right(milestones, step)
    if step < warmup_steps:
        factor *= WARMUP_START + (1 - WARMUP_START) * step / warmup_steps
    return factor
