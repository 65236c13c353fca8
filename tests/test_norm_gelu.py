"""Batch norm and GELU in one pass are batch norm, then GELU."""

import copy
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gkgnet_hf.modeling import norm_gelu
from gkgnet_hf.modeling.group_knn_cpu import loops_take
from gkgnet_hf.modeling.norm_gelu import batch_norm_gelu

needs_loops = pytest.mark.skipif(not loops_take(torch.empty(0)), reason="the compiled loops are not built")


def a_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def nodes(*shape: int, mean: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape) * scale + mean).to(memory_format=torch.channels_last)


@needs_loops
@pytest.mark.parametrize("shape", [(1, 3, 1, 2), (2, 5, 7, 3), (3, 48, 24, 24), (2, 17, 1, 300), (2, 8, 16, 16)])
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (30.0, 1.0), (0.0, 1e-3), (-5.0, 20.0)])
def test_the_loops_are_as_near_to_float64_as_pytorch(shape, mean, scale):
    norm, x, grad = a_norm(shape[1]), nodes(*shape, mean=mean, scale=scale), nodes(*shape)
    results = []
    for dtype, of in ((torch.float64, None), (torch.float32, None), (torch.float32, batch_norm_gelu)):
        module, leaf = copy.deepcopy(norm).to(dtype), x.to(dtype, copy=True).requires_grad_()
        y = of(module, leaf) if of else F.gelu(module(leaf))
        y.backward(grad.to(dtype))
        gradients = (leaf.grad, module.weight.grad, module.bias.grad)
        results.append([each.double() for each in (y, *gradients, module.running_mean, module.running_var)])
        assert module.num_batches_tracked == 1
    for exact, pytorch, loops in zip(*results, strict=True):
        allowed = 5 * (pytorch - exact).abs().max() + 2e-6 * exact.abs().max()
        assert (loops - exact).abs().max() <= allowed


@needs_loops
def test_nothing_between_the_two_is_kept():
    kept = []
    x = nodes(2, 8, 4, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.shape) or each, lambda each: each):
        batch_norm_gelu(a_norm(8), x)
    assert sorted(shape.numel() for shape in kept) == [8, 8, 8, 8, x.numel()]


@needs_loops
def test_the_number_of_threads_changes_nothing():
    norm, x, grad = a_norm(40), nodes(2, 40, 31, 33), nodes(2, 40, 31, 33)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            leaf, module = x.clone().requires_grad_(), copy.deepcopy(norm)
            y = batch_norm_gelu(module, leaf)
            y.backward(grad)
            results.append([y, leaf.grad, module.weight.grad, module.bias.grad, module.running_var])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda norm: norm.eval(),
        lambda norm: norm.double(),
        lambda norm: nn.BatchNorm2d(4, momentum=None),
        lambda norm: nn.BatchNorm2d(4, affine=False),
        lambda norm: nn.SyncBatchNorm(4).eval(),
    ],
)
def test_other_norms_are_left_to_pytorch(change):
    norm = change(a_norm(4))
    x = nodes(2, 4, 3, 3).to(torch.float64 if norm.running_mean.dtype == torch.float64 else torch.float32)
    expected = F.gelu(copy.deepcopy(norm)(x))
    with patch.object(norm_gelu, "_call", side_effect=AssertionError):
        torch.testing.assert_close(batch_norm_gelu(norm, x), expected)


def test_a_norm_without_running_statistics_takes_those_of_the_batch():
    norm, x = nn.BatchNorm2d(4, track_running_stats=False), nodes(2, 4, 3, 3)
    torch.testing.assert_close(batch_norm_gelu(norm, x), F.gelu(norm(x)))


@needs_loops
@pytest.mark.parametrize("wrong", [lambda *arguments: 0, lambda *arguments: 1])
def test_loops_that_compute_something_else_are_left_out_with_one_warning(monkeypatch, wrong):
    monkeypatch.setattr(norm_gelu, "_call", wrong)
    norm_gelu._agree.cache_clear()
    try:
        norm, x = a_norm(4), nodes(2, 4, 3, 3)
        expected = F.gelu(copy.deepcopy(norm)(x))
        with pytest.warns(RuntimeWarning, match="so PyTorch takes their place"):
            torch.testing.assert_close(batch_norm_gelu(norm, x), expected)
        batch_norm_gelu(norm, x)  # a second warning would be an error
    finally:
        norm_gelu._agree.cache_clear()


@needs_loops
def test_the_operator_keeps_the_rules_of_pytorch():
    x, weight, bias = torch.randn(2, 3, 3, 4, requires_grad=True), torch.rand(4), torch.rand(4)
    arguments = (x, weight.requires_grad_(), bias.requires_grad_(), 1e-5)
    results = torch.library.opcheck(torch.ops.gkgnet.norm_gelu.default, arguments)
    assert set(results.values()) == {"SUCCESS"}


@needs_loops
def test_a_gradient_has_a_gradient():
    norm, x, grad = a_norm(6), nodes(2, 6, 3, 3), nodes(2, 6, 3, 3)
    results = []
    for of in (batch_norm_gelu, lambda module, leaf: F.gelu(module(leaf))):
        module, leaf = copy.deepcopy(norm), x.clone().requires_grad_()
        (first,) = torch.autograd.grad(of(module, leaf), leaf, grad, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [leaf, module.weight]))
    for ours, pytorch in zip(*results, strict=True):
        torch.testing.assert_close(ours, pytorch, rtol=1e-3, atol=1e-3)


@needs_loops
def test_what_somebody_hangs_on_a_norm_is_called():
    norm, x, seen = a_norm(4), nodes(2, 4, 3, 3), []
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    batch_norm_gelu(norm, x)
    assert seen == [x.shape]
    replaced = a_norm(4)
    replaced.forward = lambda x: x
    torch.testing.assert_close(batch_norm_gelu(replaced, x), F.gelu(x))
