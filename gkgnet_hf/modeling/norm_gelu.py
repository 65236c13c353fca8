"""Batch norm in training, then GELU, in one pass over memory on CPU: the loops of norm_gelu.c, where they were built.

Between the two nothing is kept: the backward pass computes it again. PyTorch does the same elsewhere, in two modules.
"""

import ctypes
import functools
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .group_knn import differentiates_functionally
from .group_knn_cpu import _call, _library, loops_take


def batch_norm_gelu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`F.gelu(norm(x))` of x (B, C, H, W), channels-last; a norm in training mode counts the batch as always."""
    if not _taken(norm, x):
        # On CPU GELU is several times slower for channels-last tensors than for their rows.
        return F.gelu(norm(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    y, mean, variance = torch.ops.gkgnet.norm_gelu(x.permute(0, 2, 3, 1), norm.weight, norm.bias, norm.eps)
    if norm.track_running_stats:
        with torch.no_grad():
            count = x.numel() // x.shape[1]
            norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr, arg-type]
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)  # type: ignore[union-attr, arg-type]
    return y.permute(0, 3, 1, 2)


def _taken(norm: nn.Module, x: Tensor) -> bool:
    """Whether the loops take this batch: of exactly this class, since a synchronised norm is another one."""
    return (
        type(norm) is nn.BatchNorm2d
        and "forward" not in vars(norm)  # that somebody replaced
        and not (norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks)
        and type(x) is Tensor  # no fake one
        and not differentiates_functionally()
        and norm.training
        and norm.affine
        and norm.momentum is not None
        and not torch.compiler.is_compiling()  # a compiler joins the two itself
        and x.dtype == norm.weight.dtype == torch.float32
        and x.numel() > x.shape[1]
        and loops_take(x)
        and _agree()
    )


@functools.cache
def _agree() -> bool:
    """Whether the loops were built and solve a small problem as PyTorch does."""
    if not hasattr(_library(), "gkgnet_norm_gelu"):
        return False
    generator = torch.Generator("cpu").manual_seed(0)
    x, grad, weight, bias = (
        torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
        for shape in [(300, 19), (300, 19), (19,), (19,)]
    )
    try:
        y, mean, variance = _forward(x, weight, bias, 1e-5)
        found = (y, *_backward(x, grad, weight, bias, mean, variance, 1e-5))
    except Exception as error:  # whatever a damaged library does
        reason = f"failed with {error!r}"
    else:
        with torch.inference_mode(False), torch.enable_grad():
            leaves = [each.clone().requires_grad_() for each in (x, weight, bias)]
            normalised = F.batch_norm(leaves[0], None, None, weight=leaves[1], bias=leaves[2], training=True)
            wanted = (F.gelu(normalised), *torch.autograd.grad(F.gelu(normalised), leaves, grad))
        if all(torch.allclose(*pair, rtol=1e-3, atol=1e-3) for pair in zip(found, wanted, strict=True)):
            return True
        reason = "find another result than PyTorch"
    warnings.warn(
        f"GKGNet's loops for batch norm and GELU {reason}, so PyTorch takes their place", RuntimeWarning, stacklevel=2
    )
    return False


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (…, C) → their GELU after batch norm, and the mean and biased variance (C,)."""
    x = x.contiguous()
    y, mean, variance = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
    affine = (weight.contiguous(), bias.contiguous(), ctypes.c_float(eps))
    if _call("gkgnet_norm_gelu", x, x.numel() // x.shape[-1], x.shape[-1], *affine, mean, variance, y):
        raise MemoryError(f"No memory for the statistics of {x.shape[-1]} channels")
    return y, mean, variance


def _backward(
    x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    x, out, of_weight, of_bias = x.contiguous(), torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
    numbers = (x.numel() // x.shape[-1], x.shape[-1])
    affine = (weight.contiguous(), bias.contiguous(), ctypes.c_float(eps))
    results = (out, of_weight, of_bias)
    if _call("gkgnet_norm_gelu_backward", x, grad.contiguous(), *numbers, *affine, mean, variance, *results):
        raise MemoryError(f"No memory for the statistics of {x.shape[-1]} channels")
    return results


_forward_op = torch.library.custom_op("gkgnet::norm_gelu", _forward, mutates_args=())
_backward_op = torch.library.custom_op("gkgnet::norm_gelu_backward", _backward, mutates_args=())


def _keep(ctx, inputs, output):
    x, weight, bias, ctx.eps = inputs
    ctx.save_for_backward(x, weight, bias, output[1], output[2])


def _propagate(ctx, grad, *_):
    x, weight, bias, mean, variance = ctx.saved_tensors
    if torch.is_grad_enabled():  # the gradient itself is to have one
        y = F.gelu(F.batch_norm(x.movedim(-1, 1), None, None, weight, bias, training=True, eps=ctx.eps)).movedim(1, -1)
        return *torch.autograd.grad(y, (x, weight, bias), grad, create_graph=True), None
    return *torch.ops.gkgnet.norm_gelu_backward(x, grad, weight, bias, mean, variance, ctx.eps), None


_forward_op.register_autograd(_propagate, setup_context=_keep)


@_forward_op.register_fake
def _(x, weight, bias, eps):
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight),
        torch.empty_like(weight),
    )


@_backward_op.register_fake
def _(x, grad, weight, bias, mean, variance, eps):
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, torch.empty_like(weight), torch.empty_like(bias)
