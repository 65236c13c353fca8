# mypy: ignore-errors
# onnxscript reads these functions as text of another language.
"""GKGNet's operators in ONNX: the search by grid row and the gathering by rank, so that memory holds one at a time.

Shapes as in `modeling.group_knn`. The functions are of the opset that torch.onnx builds its graphs in; it inlines them
and converts the result to the opset that was asked for.
"""

from typing import Any

import torch
from onnxscript import DOUBLE, FLOAT, INT64, graph, opset18, script, values

_DOMAIN: Any = values.Opset("gkgnet_hf", 1)
op: Any = opset18


@script(_DOMAIN, default_opset=opset18)
def _nearest(destinations: FLOAT[...], sources: FLOAT[...], num_neighbors: int, dilation: int) -> INT64[...]:
    queries = destinations / op.Max(op.ReduceL2(destinations, [-1]), 1e-12)
    keys = op.Transpose(sources / op.Max(op.ReduceL2(sources, [-1]), 1e-12), perm=[0, 1, 3, 2])
    step = op.Reshape(op.Constant(value_int=dilation), [1])
    ranks = op.Min(op.Reshape(op.Constant(value_int=num_neighbors), [1]) * step, op.Shape(sources, start=2, end=3))
    _, found = op.TopK(op.MatMul(queries, keys), ranks)
    return op.Slice(found, [0], ranks, [-1], step)


@script(_DOMAIN, default_opset=opset18)
def _nearest_with_bias(
    destinations: FLOAT[...],
    sources: FLOAT[...],
    rows: FLOAT[...],
    columns: FLOAT[...],
    num_neighbors: int,
    dilation: int,
) -> INT64[...]:
    queries = 2.0 * destinations / op.Max(op.ReduceL2(destinations, [-1]), 1e-12)
    keys = op.Transpose(sources / op.Max(op.ReduceL2(sources, [-1]), 1e-12), perm=[0, 1, 3, 2])
    step = op.Reshape(op.Constant(value_int=dilation), [1])
    ranks = op.Min(op.Reshape(op.Constant(value_int=num_neighbors), [1]) * step, op.Shape(sources, start=2, end=3))
    height, channels = op.Shape(rows, start=0, end=1), op.Shape(sources, start=3, end=4)
    grid = op.Reshape(queries, op.Concat([0, 0], height, [-1], channels, axis=0))
    grid = op.Transpose(grid, perm=[2, 0, 1, 3, 4])  # (H, B, G, W, c)

    @graph()
    def search_row(query: FLOAT[...], row: FLOAT[...]) -> INT64[...]:
        _, nearest = op.TopK(op.MatMul(query, keys) - (columns + row), ranks)
        return nearest

    found = op.Scan(grid, rows, body=search_row, num_scan_inputs=2)
    found = op.Transpose(op.Slice(found, [0], ranks, [-1], step), perm=[1, 2, 0, 3, 4])
    return op.Reshape(found, op.Concat([0, 0, -1], op.Shape(found, start=4, end=5), axis=0))


@script(_DOMAIN, default_opset=opset18)
def _largest(sources: FLOAT[...], neighbors: INT64[...]) -> FLOAT[...]:
    groups = op.Shape(sources, start=0, end=2)
    first = op.Range(0, op.ReduceProd(groups, keepdims=0), 1) * op.Squeeze(op.Shape(sources, start=2, end=3))
    flat = op.Reshape(sources, op.Concat([-1], op.Shape(sources, start=3, end=4), axis=0))
    index = op.Transpose(neighbors + op.Reshape(first, op.Concat(groups, [1, 1], axis=0)), perm=[3, 0, 1, 2])

    @graph()
    def take_rank(best: FLOAT[...], rank: INT64[...]) -> FLOAT[...]:
        larger = op.Max(best, op.Gather(flat, rank))
        return larger

    best = op.Scan(op.Gather(flat, op.Gather(index, 0)), index, body=take_rank, num_scan_inputs=1)
    return best


def _find_neighbors(destinations, sources, num_neighbors, dilation, rows=None, columns=None):
    numbers = dict(num_neighbors=num_neighbors, dilation=dilation)
    tensors = [x if x.dtype == DOUBLE.dtype else op.Cast(x, to=FLOAT.dtype) for x in (destinations, sources)]
    if rows is None:
        return _nearest(*tensors, **numbers)
    return _nearest_with_bias(*tensors, op.CastLike(rows, tensors[0]), op.CastLike(columns, tensors[0]), **numbers)


def _gather_max(sources, neighbors, track):
    no_ranks = op.Shape(sources, start=0, end=0)  # training alone asks for them
    return _largest(sources, neighbors), no_ranks


OPERATORS: dict[Any, Any] = {
    torch.ops.gkgnet.find_neighbors.default: _find_neighbors,
    torch.ops.gkgnet.gather_max.default: _gather_max,
}
