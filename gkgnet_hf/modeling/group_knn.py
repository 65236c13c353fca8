"""Group K-nearest-neighbour graph: the search and the max-relative aggregation (GKGNet, arXiv 2308.14378, eq. 1).

Each function stands here twice. The `_plain` one materialises everything and reads like the equations; it is the
oracle. The other computes the same, without approximation, and is what the network runs: it visits the N×M
similarities a bounded piece at a time, and gathers neighbours one rank at a time. On CUDA devices the Triton kernels of
`group_knn_triton` do both, unless the environment variable `GKGNET_KERNELS` is `off`.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import functools
import os
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

# Similarities held at a time, or one grid row of them if that is more. On CPU a piece should stay in cache; elsewhere
# it should be worth a kernel launch.
CPU_PIECE = 1 << 21
DEVICE_PIECE = 1 << 25


def find_neighbors_plain(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int = 1,
    bias: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Neighbours by distance `2 − 2·cos + bias`, nearest first: of the K·d nearest, ranks 0, d, 2d, … are kept.

    Args and result as in `find_neighbors`.
    """
    dtype = _search_dtype(destinations)
    cosine = F.normalize(destinations.to(dtype), dim=-1) @ F.normalize(sources.to(dtype), dim=-1).mT  # (B, G, N, M)
    distance = 2 - 2 * cosine
    if bias is not None:
        rows, columns = bias
        distance = distance + (rows[:, None] + columns).flatten(0, 1)
    ranks = min(num_neighbors * dilation, sources.shape[2])
    return (-distance).topk(ranks).indices[..., ::dilation]  # NaN counts as highest, so as nearest


def find_neighbors(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int = 1,
    bias: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """For each destination and group, the sources nearest by distance `2 − 2·cos + bias` (paper section 3.2).

    Half-precision features are compared in float32. Between sources at exactly the same distance the choice is
    arbitrary. A feature that is NaN makes every distance to it NaN, which counts as nearest for a source.

    Args:
        destinations: (B, G, N, c), any floating dtype.
        sources: (B, G, M, c).
        num_neighbors: K.
        dilation: d. Of the K·d nearest sources, ranks 0, d, 2d, … are kept.
        bias: position bias as `position_bias` gives it: rows (H, M) and columns (W, M) with N = H·W.

    Returns:
        (B, G, N, K) int64 indices into the M sources, nearest first; with fewer than K·d sources, the ranks that
        exist, so K' = ⌈min(K·d, M) / d⌉ of them.

    >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]).view(1, 1, 3, 2)
    >>> find_neighbors(points, points, num_neighbors=2).tolist()
    [[[[0, 2], [1, 2], [2, 0]]]]
    """
    if bias is None:
        return torch.ops.gkgnet.find_neighbors(destinations, sources, num_neighbors, dilation, None, None)
    return torch.ops.gkgnet.find_neighbors(destinations, sources, num_neighbors, dilation, bias[0], bias[1])


def _search(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int,
    rows: Tensor | None,
    columns: Tensor | None,
) -> Tensor:
    batch, groups, num_destinations, _ = destinations.shape
    num_sources = sources.shape[2]
    ranks = min(num_neighbors * dilation, num_sources)
    neighbors = torch.empty(
        batch * groups, num_destinations, -(-ranks // dilation), dtype=torch.long, device=destinations.device
    )
    with torch.autocast(destinations.device.type, enabled=False):
        dtype = _search_dtype(destinations)
        queries = F.normalize(destinations.flatten(0, 1).to(dtype), dim=-1)  # (B·G, N, c)
        keys = F.normalize(sources.flatten(0, 1).to(dtype), dim=-1).mT  # (B·G, c, M)
        width = 1 if columns is None else columns.shape[0]
        pieces = _pieces(batch * groups, num_destinations // width, width * num_sources, queries.device)
        for items, first, last in pieces:
            piece = slice(first * width, last * width)
            if rows is None or columns is None:
                similarity = torch.bmm(queries[items, piece], keys[items])
            else:
                bias = (rows[first:last, None] + columns).flatten(0, 1)
                similarity = bias.repeat(len(queries[items]), 1, 1).baddbmm_(
                    queries[items, piece], keys[items], beta=-1, alpha=2
                )
            neighbors[items, piece] = similarity.topk(ranks).indices[..., ::dilation]
    return neighbors.unflatten(0, (batch, groups))


# Custom ops, so that torch.compile, torch.export and the meta device see one node where a loop or a kernel runs. A
# second copy of this file in the process, which came with a model, takes the names over: what they mean never changes.
_find_neighbors = torch.library.custom_op("gkgnet::find_neighbors", _search, mutates_args=())


@_find_neighbors.register_fake
def _(destinations, sources, num_neighbors, dilation, rows, columns):
    ranks = min(num_neighbors * dilation, sources.shape[2])
    return destinations.new_empty((*destinations.shape[:3], -(-ranks // dilation)), dtype=torch.long)


@register_flop_formula(torch.ops.gkgnet.find_neighbors)
def _find_neighbors_flops(destinations_shape, sources_shape, *args, **kwargs) -> int:
    batch, groups, num_destinations, dim = destinations_shape
    return 2 * batch * groups * num_destinations * sources_shape[2] * dim


def _pieces(items: int, rows: int, row_size: int, device: torch.device):
    """Cut `items` × `rows` × `row_size` similarities into pieces of bounded size: (slice of items, first, last row)."""
    budget = CPU_PIECE if device.type == "cpu" else DEVICE_PIECE
    item_step = max(1, budget // (rows * row_size))
    row_step = max(1, min(rows, budget // row_size))
    for item in range(0, items, item_step):
        for row in range(0, rows, row_step):
            yield slice(item, item + item_step), row, min(row + row_step, rows)


def max_relative_plain(destinations: Tensor, sources: Tensor, neighbors: Tensor) -> Tensor:
    """max over neighbours of (source − destination), per channel, from both ends of every edge.

    Args and result as in `max_relative`.
    """
    num_destinations, num_neighbors = neighbors.shape[2:]
    own = torch.arange(num_destinations, device=neighbors.device).unsqueeze(1).expand(-1, num_neighbors)
    ends = _gather_edges(sources, neighbors) - _gather_edges(destinations, own.expand_as(neighbors))
    return ends.max(dim=3).values


def _gather_edges(nodes: Tensor, index: Tensor) -> Tensor:
    """Nodes (B, G, M, c) at indices (B, G, N, K) → (B, G, N, K, c)."""
    batch = torch.arange(nodes.shape[0], device=nodes.device).view(-1, 1, 1, 1)
    group = torch.arange(nodes.shape[1], device=nodes.device).view(-1, 1, 1)
    return nodes[batch, group, index]


def max_relative(destinations: Tensor, sources: Tensor, neighbors: Tensor) -> Tensor:
    """max over neighbours of (source − destination), per channel (paper eq. 1, with the released weights' sign).

    It equals (max over neighbours of source) − destination, so nothing of size N·K·c is built. Gradients reach only
    the source that won each channel; between equal ones, the nearest.

    Args:
        destinations: (B, G, N, c).
        sources: (B, G, M, c).
        neighbors: (B, G, N, K) int64 indices into the M sources.

    Returns:
        (B, G, N, c).

    >>> sources = torch.tensor([[1.0, 5.0], [3.0, 2.0]]).view(1, 1, 2, 2)
    >>> max_relative(torch.ones(1, 1, 1, 2), sources, torch.tensor([[[[0, 1]]]])).tolist()
    [[[[2.0, 4.0]]]]
    """
    track = torch.is_grad_enabled() and sources.requires_grad
    return torch.ops.gkgnet.gather_max(sources, neighbors, track)[0] - destinations


def _gather_max(sources: Tensor, neighbors: Tensor, track: bool) -> tuple[Tensor, Tensor]:
    """Per channel, the largest of the neighbours' values and, if `track`, its rank k < K, both (B, G, N, c).

    They lie in memory as (B, N, G, c), as the network's channels do. NaN is the largest, and of equals the nearest
    wins. Ranks are uint8, int16 for K > 256.
    """
    flat, index = _flat_rows(sources, neighbors)
    best = flat[index[..., 0]]
    ranks = torch.zeros(best.shape if track else 0, dtype=_rank_dtype(neighbors), device=best.device)
    for k in range(1, index.shape[-1]):
        candidate = flat[index[..., k]]
        if track:
            won = (candidate > best) | (candidate.isnan() & ~best.isnan())
            ranks = torch.maximum(ranks, won.to(ranks.dtype) * k)  # k only grows; vectorised, unlike a fill
        best = torch.maximum(best, candidate)
    return best.transpose(1, 2), ranks.transpose(1, 2) if track else ranks


def _scatter_max(grad: Tensor, neighbors: Tensor, ranks: Tensor, num_sources: int) -> Tensor:
    """Backward of `_gather_max`: gradients (B, G, N, c), each added to the source that won → (B, G, M, c)."""
    batch, groups, _, dim = grad.shape
    result = grad.new_zeros(batch, num_sources, groups, dim).transpose(1, 2)
    return result.scatter_add_(2, neighbors.gather(3, ranks.long()), grad)


def _rank_dtype(neighbors: Tensor) -> torch.dtype:
    return torch.uint8 if neighbors.shape[3] <= 256 else torch.int16


def _flat_rows(sources: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Sources as (B·M·G, c) rows, and neighbours as indices (B, N, G, K) of these rows."""
    batch, groups, num_sources, dim = sources.shape
    index = neighbors.transpose(1, 2) * groups + torch.arange(groups, device=sources.device).view(-1, 1)
    first = torch.arange(batch, device=sources.device).view(-1, 1, 1, 1) * (num_sources * groups)
    return sources.transpose(1, 2).reshape(-1, dim), (index + first).contiguous()


def _search_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


_gather_max_op = torch.library.custom_op("gkgnet::gather_max", _gather_max, mutates_args=())
_scatter_max_op = torch.library.custom_op("gkgnet::scatter_max", _scatter_max, mutates_args=())


@_gather_max_op.register_fake
def _(sources, neighbors, track):
    batch, groups, num_destinations, _ = neighbors.shape
    values = sources.new_empty(batch, num_destinations, groups, sources.shape[3])
    ranks = values.new_empty(values.shape if track else 0, dtype=_rank_dtype(neighbors))
    return values.transpose(1, 2), ranks.transpose(1, 2) if track else ranks


@_scatter_max_op.register_fake
def _(grad, neighbors, ranks, num_sources):
    batch, groups, _, dim = grad.shape
    return grad.new_empty(batch, num_sources, groups, dim).transpose(1, 2)


def _keep_winners(ctx, inputs, output):
    ctx.save_for_backward(inputs[1], output[1])
    ctx.num_sources = inputs[0].shape[2]


def _gather_max_backward(ctx, grad, _):
    return torch.ops.gkgnet.scatter_max(grad, *ctx.saved_tensors, ctx.num_sources), None, None


def _scatter_max_backward(ctx, grad):
    neighbors, ranks = ctx.saved_tensors
    return grad.gather(2, neighbors.gather(3, ranks.long())), None, None, None


_gather_max_op.register_autograd(_gather_max_backward, setup_context=_keep_winners)
_scatter_max_op.register_autograd(
    _scatter_max_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:3])
)


@_find_neighbors.register_kernel("cuda")
def _(destinations, sources, num_neighbors, dilation, rows, columns):
    return _on_gpu(_search, destinations, sources, num_neighbors, dilation, rows, columns)


@_gather_max_op.register_kernel("cuda")
def _(sources, neighbors, track):
    return _on_gpu(_gather_max, sources, neighbors, track)


@_scatter_max_op.register_kernel("cuda")
def _(grad, neighbors, ranks, num_sources):
    if torch.are_deterministic_algorithms_enabled():
        return _scatter_max(grad, neighbors, ranks, num_sources)
    return _on_gpu(_scatter_max, grad, neighbors, ranks, num_sources)


def _on_gpu(function: Callable, *arguments):
    """The result of the function's Triton kernel, or its own for float64 and where kernels are off or do not run."""
    kernel = _kernels().get(function)
    if kernel is None or os.environ.get("GKGNET_KERNELS") == "off" or arguments[0].dtype == torch.float64:
        return function(*arguments)
    try:
        with torch.cuda.device_of(arguments[0]):
            return kernel(*arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no C compiler, a GPU that is too old or too small, …: Triton has no common class
        _kernels().pop(function, None)
        message = f"A Triton kernel of GKGNet failed, so PyTorch takes its place: {error!r}"
        warnings.warn(message, RuntimeWarning, stacklevel=1)
        return function(*arguments)


@functools.cache
def _kernels() -> dict[Callable, Callable]:
    """The Triton kernels of `_search`, `_gather_max` and `_scatter_max`; none where Triton is not installed."""
    try:
        from .group_knn_triton import gather_max, scatter_max, search
    except ImportError:
        return {}
    return {_search: search, _gather_max: gather_max, _scatter_max: scatter_max}
