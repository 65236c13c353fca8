"""Batch norm with the statistics of all processes, also on CPUs, for which torch has none."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every batch norm of `model` by a synchronised one that shares its parameters and buffers.

    torch's `SyncBatchNorm` on accelerators, `CPUSyncBatchNorm` on CPUs. Names in the state dict stay.

    Example:

        model = synchronize_batch_norm(model)  # after torch.distributed.init_process_group
    """
    if next(model.parameters()).device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                synchronized = CPUSyncBatchNorm(child.num_features, child.eps, child.momentum)
                synchronized._parameters, synchronized._buffers = child._parameters, child._buffers
                setattr(parent, name, synchronized.train(child.training))
    return model


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


class CPUSyncBatchNorm(_BatchNorm):
    """Batch norm of (N, C, …) over the batches of all processes; the mean first, then the variance around it."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input must be (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(input)
        dims = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        count = input.new_full((1,), input.numel() / input.shape[1])
        sums = SumOverProcesses.apply(torch.cat([input.sum(dims), count]))
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centered = input - mean.view(shape)
        squares = SumOverProcesses.apply(centered.square().sum(dims))
        variance = squares / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr,arg-type]
            self.running_var.lerp_(squares / (count - 1), self.momentum)  # type: ignore[union-attr,arg-type]
        scale = self.weight * (variance + self.eps).rsqrt()
        return centered * scale.view(shape) + self.bias.view(shape)
