"""Calls that no caller should make: each argument of each function and operator of the graph, spoiled in each way.

python -m tests.robustness.hostile_operators TARGET runs those of one target and prints what became of them, one line a
call: a call that ends the process is the last line. tests/robustness/test_operators.py reads it.
"""

import sys
import warnings

import torch

from gkgnet_hf.modeling import group_knn

OPERATORS = torch.ops.gkgnet
BATCH, GROUPS, N, M, DIM, K = 2, 2, 6, 9, 5, 3


def features(length):
    return torch.randn(BATCH, GROUPS, length, DIM)


def search_arguments():
    return [features(N), features(M), K, 2, torch.randn(2, M), torch.randn(3, M)]


def gather_arguments():
    return [features(M), torch.randint(M, (BATCH, GROUPS, N, K)), True]


def relative_arguments():
    return [features(N), features(M), torch.randint(M, (BATCH, GROUPS, N, K))]


def scatter_arguments():
    ranks = torch.randint(K, (BATCH, GROUPS, N, DIM), dtype=torch.uint8)
    return [features(N), torch.randint(M, (BATCH, GROUPS, N, K)), ranks, M]


def with_bias(function):
    return lambda a, b, k, d, *bias: function(a, b, k, d, bias)


def with_gradient(*arguments):
    """The aggregation and its backward."""
    leaves = [x.requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x for x in arguments]
    result = group_knn.max_relative(*leaves)
    result.sum().backward()
    return result.detach()


TARGETS = {
    "find_neighbors": (with_bias(group_knn.find_neighbors), search_arguments),
    "find_neighbors_reference": (with_bias(group_knn.find_neighbors_reference), search_arguments),
    "gkgnet::find_neighbors": (OPERATORS.find_neighbors, search_arguments),
    "max_relative": (group_knn.max_relative, relative_arguments),
    "max_relative_with_gradient": (with_gradient, relative_arguments),
    "max_relative_reference": (group_knn.max_relative_reference, relative_arguments),
    "gkgnet::gather_max": (OPERATORS.gather_max, gather_arguments),
    "gkgnet::scatter_max": (OPERATORS.scatter_max, scatter_arguments),
}


def shape_changes(tensor):
    """(name, tensor) with another number of dimensions, or another size of one."""
    yield "no dimension", tensor.flatten()[0]
    yield "one dimension less", tensor[0]
    yield "one more", tensor.unsqueeze(-1)
    yield "two more", tensor[None, None]
    for axis in range(tensor.dim()):
        index = torch.arange(tensor.shape[axis])
        yield f"size 0 in {axis}", tensor.index_select(axis, index[:0])
        yield f"size 1 in {axis}", tensor.index_select(axis, index[:1])
        yield f"one more in {axis}", tensor.index_select(axis, torch.cat([index, index[:1]]))
        one = tensor.index_select(axis, index[:1])
        for size in (2**31 - 1, 2**31, 2**32 + 1, 2**40):
            yield f"size {size} in {axis}", one.expand(*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
    one = tensor.flatten()[0].view([1] * tensor.dim())
    yield "huge in all", one.expand([2**15] * tensor.dim())


def kind_changes(tensor):
    """(name, tensor) of another dtype, device or layout, or a view of another kind."""
    for dtype in (torch.int32, torch.int64, torch.uint8, torch.int16, torch.bool, torch.float16, torch.float64):
        yield str(dtype), tensor.to(dtype)
    yield "complex", tensor.to(torch.complex64)
    yield "float8", tensor.float().to(torch.float8_e4m3fn)
    yield "meta", tensor.to("meta")
    yield "sparse", tensor.to_sparse()
    yield "csr", tensor.flatten(1).to_sparse_csr() if tensor.dim() > 1 else tensor.to_sparse()
    yield "nested", torch.nested.nested_tensor(list(tensor.float()))
    if tensor.is_floating_point():
        yield "mkldnn", tensor.to_mkldnn()
        yield "quantised", torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
        yield "negated", torch._neg_view(tensor)
        yield "zeros without memory", torch._efficientzerotensor(tensor.shape)
        for value in (torch.nan, torch.inf, -torch.inf, 1e30, 1e-40, 0):
            yield f"all {value}", torch.full_like(tensor, value)


def value_changes(tensor):
    """(name, tensor) of integers that are no indices."""
    for value in (-1, K, M, 255, 2**31, 2**62, -(2**63)):
        for where in ("all", "the last"):
            if tensor.dtype == torch.uint8 and not 0 <= value < 256:
                continue
            changed = tensor.clone()
            changed.view(-1)[0 if where == "all" else -1 :] = value
            yield f"{where} {value}", changed


def changes(argument):
    """(name, replacement) of one argument."""
    if torch.is_tensor(argument):
        yield from shape_changes(argument)
        yield from kind_changes(argument)
        if not argument.is_floating_point():
            yield from value_changes(argument)
        yield "as it is", argument
    elif argument is not True:
        for number in (0, -1, -(2**31), -(2**63), 2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**64, 1.5, torch.nan):
            yield str(number), number
    for other in (None, "x", [1.0], True):
        yield repr(other), other


def calls(target):
    """(name of the call, function, arguments), each with one argument spoiled."""
    function, make = TARGETS[target]
    for index in range(len(make())):
        for name, replacement in changes(make()[index]):
            arguments = make()
            arguments[index] = replacement
            yield f"argument {index}: {name}", function, arguments


def outcome(function, arguments):
    """ "right", "wrong" or the name of the error's class."""
    try:
        result = function(*arguments)
    except Exception as error:
        return type(error).__name__
    result = result if isinstance(result, tuple) else (result,)
    if any(x.is_meta for x in result):
        return "shapes only"
    with group_knn.without_kernels():
        expected = function(*(x.detach().clone() if torch.is_tensor(x) else x for x in arguments))
    expected = expected if isinstance(expected, tuple) else (expected,)
    same = all(
        x.shape == y.shape and (x.dtype == torch.long or torch.allclose(x.double(), y.double(), equal_nan=True))
        for x, y in zip(result, expected, strict=True)
    )
    inside = all(x.dtype != torch.long or ((x >= 0) & (x < M + 1)).all() for x in result)
    return "right" if same and inside else "wrong"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for name, function, arguments in calls(sys.argv[1]):
        print(name, end=" → ", flush=True)
        print(outcome(function, arguments), flush=True)
