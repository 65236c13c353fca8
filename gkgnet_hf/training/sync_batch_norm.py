"""Batch norm with the statistics of all processes, also on CPUs, for which torch has none."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm inside `model` by torch's `SyncBatchNorm`, or for a CPU by `CPUSyncBatchNorm`.

    Parameters, buffers and their names in the state dict stay.

    Args:
        model: changed in place, and returned.
        device: where training is going to happen; the model may be elsewhere still.

    Example:

        model = synchronize_batch_norm(model, arguments.device)  # after torch.distributed.init_process_group
    """
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm) and device.type == "cpu":
            module.__class__ = CPUSyncBatchNorm  # type: ignore[assignment]
    return model


class CPUSyncBatchNorm(_BatchNorm):
    """Batch norm of (N, C, …) over the batches of all processes; the mean first, then the variance around it."""

    _check_input_dim = nn.SyncBatchNorm._check_input_dim  # no subclass of it: DistributedDataParallel refuses those

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        count = input.new_full((1,), input.numel() / input.shape[1])
        sums = SumOverProcesses.apply(torch.cat([input.sum(dims), count]))
        mean, count = sums[:-1] / sums[-1].detach(), sums[-1].detach()
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel over all processes, got {tuple(input.shape)}")
        centered = input - mean.view(shape)
        squares = SumOverProcesses.apply(centered.square().sum(dims))
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr,arg-type]
            self.running_var.lerp_(squares / (count - 1), self.momentum)  # type: ignore[union-attr,arg-type]
        scale = self.weight * (squares / count + self.eps).rsqrt()
        return centered * scale.view(shape) + self.bias.view(shape)


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes, and of its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return SumOverProcesses.apply(gradient)
