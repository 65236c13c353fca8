"""Convolutions of a network that only infers, whose weights are kept in the order that the CPU library oneDNN reads.

PyTorch puts them into that order at every call, which takes as long as the convolution itself where an image has few
nodes. The operator that does not is the one that `torch.compile` puts into a frozen graph.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula

from .group_knn import _leaves_pytorch, differentiates_functionally


class PackedConv(nn.Module):
    """A convolution, then GELU if `activated`, of nodes (B, C, H, W) with their channels side by side.

    Where oneDNN does not take the nodes, the modules of PyTorch do.
    """

    def __init__(self, conv: nn.Conv2d, activated: bool):
        super().__init__()
        self.conv = conv.to(memory_format=torch.channels_last)
        self.activated = activated
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H', W')."""
        conv = self.conv
        if self._takes(x):
            geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
            if self.packed is None:
                self.packed = _pack(conv.weight.detach(), geometry, x.shape)
            return _convolve(x, self.packed, conv.bias, geometry, self.activated)
        x = conv(x)
        return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.activated else x

    def _takes(self, x: Tensor) -> bool:
        """Whether the operator takes these nodes: it has no derivative, and knows no transforms of PyTorch."""
        return (
            x.device.type == "cpu"
            and type(x) is Tensor  # no fake one
            and not torch.compiler.is_compiling()
            and not _leaves_pytorch()
            and not differentiates_functionally()
            and not torch.is_autocast_enabled("cpu")
            and not (torch.is_grad_enabled() and (x.requires_grad or self.conv.weight.requires_grad))
            and x.dtype == self.conv.weight.dtype
            and x.numel() > 0
            and _agrees(x.dtype)
        )

    def _apply(self, *args: Any, **kwargs: Any) -> "PackedConv":
        self.packed = None  # the weights move, or change their dtype
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": None}  # a copy packs its own


def _pack(weight: Tensor, geometry: tuple, shape: torch.Size) -> Tensor:
    """The weights in the order that suits inputs of this shape; others are convolved with them as well."""
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(weight.contiguous().to_mkldnn(), *geometry, shape)


def _convolve(x: Tensor, packed: Tensor, bias: Tensor | None, geometry: tuple, activated: bool) -> Tensor:
    convolution = torch.ops.mkldnn._convolution_pointwise
    return convolution(x, packed, bias, *geometry, "gelu" if activated else "none", [], "none")


@functools.cache
def _agrees(dtype: torch.dtype) -> bool:
    """Whether this PyTorch and processor have the operator, and it convolves a small image as PyTorch does."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32).to(dtype)
        for shape in [(2, 24, 9, 7), (40, 12, 3, 3), (40,)]
    )
    geometry = ((1, 1), (2, 2), (1, 1), 2)  # padding, stride, dilation, groups
    try:
        x = x.contiguous(memory_format=torch.channels_last)
        found = _convolve(x, _pack(weight, geometry, x.shape), bias, geometry, True)
    except (AttributeError, RuntimeError):  # not there, or not for this dtype
        return False
    wanted = F.gelu(F.conv2d(x.float(), weight.float(), bias.float(), stride=2, padding=1, groups=2))
    return torch.allclose(found.float(), wanted, rtol=4 * torch.finfo(dtype).eps, atol=1e-3)


# A second copy of this file in the process, which came with a model, finds the formula there.
if (_operator := getattr(torch.ops.mkldnn, "_convolution_pointwise", None)) and _operator not in flop_registry:

    @register_flop_formula(_operator)
    def _flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
        return conv_flop_count(x_shape, weight_shape, out_shape)
