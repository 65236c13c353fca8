"""Group K-nearest-neighbour graph of GKGNet (https://arxiv.org/abs/2308.14378): the search, then eq. 1.

In each group of channels, every destination i finds its K nearest sources N(i), and eq. 1 takes from them, channel by
channel, `max over j in N(i) of (source_j − destination_i)`, with the sign of the released weights.

Each function stands here twice. The `_reference` one holds every similarity and every edge at once and reads like the
equations. The other gives the same result, without approximation, through an operator; it is what the network runs. In
a graph that is exported or traced for another runtime the reference takes its place: its operators are standard ones.

The operators `gkgnet::find_neighbors`, `gather_max` and `scatter_max` visit the N×M similarities a bounded piece at a
time and gather neighbours one rank at a time: nothing grows with N·M or N·K·C. On CPU, compiled loops (`group_knn_cpu`)
do the inner work where they were built; on CUDA, Triton kernels (`group_knn_triton`). `GKGNET_KERNELS=off` in the
environment turns both off.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .group_knn_cpu import gather_max as gather_max_cpu
from .group_knn_cpu import kernels_may_take, loops_take
from .group_knn_cpu import scatter_max as scatter_max_cpu
from .group_knn_cpu import select as select_cpu


def find_neighbors_reference(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int = 1,
    bias: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Neighbours by distance `2 − 2·cos + bias`, nearest first: of the K·d nearest, ranks 0, d, 2d, … are kept.

    Args and result as in `find_neighbors`. The smallest distances are found as the highest values of `2·cos − bias`.
    """
    dtype = search_dtype(destinations)
    queries, keys = F.normalize(destinations.to(dtype), dim=-1), F.normalize(sources.to(dtype), dim=-1)
    nearness = 2 * queries @ keys.transpose(2, 3)  # (B, G, N, M)
    if bias is not None:
        rows, columns = bias
        nearness = nearness - (rows[:, None] + columns).flatten(0, 1)
    ranks: Any = num_neighbors * dilation
    num_sources: Any = sources.shape[2]  # a tensor in torch.jit.trace, a symbol in torch.export
    ranks = num_sources.clamp(max=ranks) if torch.jit.is_tracing() else torch.sym_min(ranks, num_sources)
    return nearness.topk(ranks).indices[..., ::dilation]  # NaN counts as highest, so as nearest


def find_neighbors(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int = 1,
    bias: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """For each destination and group, the sources nearest by distance `2 − 2·cos + bias` (paper section 3.2).

    Half-precision features are compared in float32. Between sources at exactly the same distance the choice is
    arbitrary. A feature that is NaN makes every distance to it NaN, which counts as nearest for a source. The search is
    exact at torch's default float32 matmul precision; "high" and "medium" (TF32, bfloat16) hold for its products too,
    except in the Triton kernel.

    Args:
        destinations: (B, G, N, c), any floating dtype.
        sources: (B, G, M, c).
        num_neighbors: K.
        dilation: d. Of the K·d nearest sources, ranks 0, d, 2d, … are kept.
        bias: position bias as `position_bias` gives it: rows (H, M) and columns (W, M) with N = H·W.

    Returns:
        (B, G, N, K) int64 indices into the M sources, nearest first; with fewer than K·d sources, the ranks that
        exist, so K' = ⌈min(K·d, M) / d⌉ of them.

    Raises:
        ValueError: for a bias of another shape.

    >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]).view(1, 1, 3, 2)
    >>> find_neighbors(points, points, num_neighbors=2).tolist()
    [[[[0, 2], [1, 2], [2, 0]]]]
    """
    if not torch.jit.is_scripting():  # noqa: SIM102, TorchScript prunes a condition only where it stands alone
        if _leaves_pytorch():
            return find_neighbors_reference(destinations, sources, num_neighbors, dilation, bias)
    if bias is None:
        return torch.ops.gkgnet.find_neighbors(destinations, sources, num_neighbors, dilation, None, None)
    return torch.ops.gkgnet.find_neighbors(destinations, sources, num_neighbors, dilation, bias[0], bias[1])


def max_relative_reference(destinations: Tensor, sources: Tensor, neighbors: Tensor) -> Tensor:
    """Eq. 1 as written, with every edge (B, G, N, K, c) built: max over neighbours of (source − destination).

    Args and result as in `max_relative`.
    """
    batch, groups, num_sources, dim = sources.shape
    first = torch.arange(batch * groups, device=sources.device).view(batch, groups, 1, 1) * num_sources
    ends = F.embedding(neighbors + first, sources.reshape(-1, dim))
    return (ends - destinations.unsqueeze(3)).max(dim=3).values


def max_relative(destinations: Tensor, sources: Tensor, neighbors: Tensor) -> Tensor:
    """max over neighbours of (source − destination), per channel (paper eq. 1).

    It equals (max over neighbours of source) − destination, so nothing of size N·K·c is built. Gradients reach only
    the source that won each channel; between equal ones, the nearest.

    Args:
        destinations: (B, G, N, c).
        sources: (B, G, M, c).
        neighbors: (B, G, N, K) int64 indices into the M sources.

    Returns:
        (B, G, N, c).

    Raises:
        ValueError: for neighbours of another dtype or shape.

    >>> sources = torch.tensor([[1.0, 5.0], [3.0, 2.0]]).view(1, 1, 2, 2)
    >>> max_relative(torch.ones(1, 1, 1, 2), sources, torch.tensor([[[[0, 1]]]])).tolist()
    [[[[2.0, 4.0]]]]
    """
    if not torch.jit.is_scripting():  # noqa: SIM102, TorchScript prunes a condition only where it stands alone
        if _leaves_pytorch():
            return max_relative_reference(destinations, sources, neighbors)
    track = torch.is_grad_enabled() and sources.requires_grad
    return torch.ops.gkgnet.gather_max(sources, neighbors, track)[0] - destinations


def winning_ranks(sources: Tensor, neighbors: Tensor) -> Tensor:
    """Which neighbour gave the maximum of eq. 1: its rank k < K for each channel, (B, G, N, c); arguments as above.

    >>> sources = torch.tensor([[1.0, 5.0], [3.0, 2.0]]).view(1, 1, 2, 2)
    >>> winning_ranks(sources, torch.tensor([[[[0, 1]]]])).tolist()
    [[[[1, 0]]]]
    """
    return torch.ops.gkgnet.gather_max(sources, neighbors, True)[1]


def _leaves_pytorch() -> bool:
    """Whether a graph is being made for a runtime that does not know the operators: torch.export, torch.jit.trace."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


# Similarities held at a time, or one grid row of them if that is more. On CPU a piece should stay in cache; elsewhere
# it should be worth a kernel launch.
CPU_PIECE = 1 << 21
DEVICE_PIECE = 1 << 25


def _search(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int,
    rows: Tensor | None,
    columns: Tensor | None,
) -> Tensor:
    _check_bias(destinations, sources, rows, columns)
    batch, groups, num_destinations, _ = destinations.shape
    num_sources = sources.shape[2]
    ranks = min(num_neighbors * dilation, num_sources)
    bias = None if rows is None or columns is None else (rows, columns)
    width = 1 if bias is None else len(bias[1])
    with torch.autocast(destinations.device.type, enabled=False):
        queries, keys = _normalized(destinations), _normalized(sources).mT  # (B·G, N, c), (B·G, c, M)
        kept = -(-ranks // dilation)
        neighbors = torch.empty(batch * groups, num_destinations, kept, dtype=torch.long, device=queries.device)
        budget = CPU_PIECE if queries.device.type == "cpu" else DEVICE_PIECE
        pieces = _pieces(batch * groups, num_destinations // width, width * num_sources, budget)
        memory = queries.new_empty(min(neighbors[..., 0].numel() * num_sources, max(budget, width * num_sources)))
        for items, first, last in pieces:
            piece = slice(first * width, last * width)
            similarity = memory[: len(keys[items]) * (last - first) * width * num_sources]
            similarity = similarity.view(-1, (last - first) * width, num_sources)
            torch.bmm(queries[items, piece], keys[items], out=similarity)
            _choose(similarity, bias, first, ranks, dilation, out=neighbors[items, piece])
    return neighbors.unflatten(0, (batch, groups))


def _check_bias(destinations: Tensor, sources: Tensor, rows: Tensor | None, columns: Tensor | None) -> None:
    num_destinations, num_sources = destinations.shape[2], sources.shape[2]
    if rows is None or columns is None:
        return
    if len(rows) * len(columns) != num_destinations or not rows.shape[1] == columns.shape[1] == num_sources:
        raise ValueError(
            f"bias must be rows (H, {num_sources}) and columns (W, {num_sources}) with H·W = {num_destinations}, "
            f"got {tuple(rows.shape)} and {tuple(columns.shape)}"
        )


def _check_neighbors(sources: Tensor, neighbors: Tensor) -> None:
    if neighbors.dtype != torch.long or neighbors.shape[:2] != sources.shape[:2]:
        raise ValueError(
            f"neighbors must be int64 ({sources.shape[0]}, {sources.shape[1]}, N, K), "
            f"got {neighbors.dtype} {tuple(neighbors.shape)}"
        )


def _normalized(features: Tensor) -> Tensor:
    """(B, G, N, c) → (B·G, N, c) contiguous, each of length 1, in the dtype of the search."""
    features = features.to(search_dtype(features))
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp_min_(1e-12)
    unit = torch.empty(features.shape, dtype=features.dtype, device=features.device)
    return torch.div(features, length, out=unit).flatten(0, 1)


def _choose(
    similarity: Tensor, bias: tuple[Tensor, Tensor] | None, first: int, ranks: int, dilation: int, out: Tensor
) -> None:
    """Ranks 0, d, 2d, … of `2 · similarity − bias` (items, R, M), whose first row is of grid row `first` → `out`."""
    if loops_take(similarity):
        select_cpu(similarity, bias, first, ranks, dilation, out)
        return
    if bias is not None:
        rows, columns = bias
        grid = similarity.unflatten(1, (-1, len(columns)))  # (items, grid rows, W, M)
        grid.mul_(2).sub_(columns).sub_(rows[first : first + grid.shape[1], None])
    out.copy_(similarity.topk(ranks).indices[..., ::dilation])


def _pieces(items: int, rows: int, row_size: int, budget: int):
    """Cut `items` × `rows` × `row_size` similarities into pieces of bounded size: (slice of items, first, last row)."""
    item_step = max(1, budget // (rows * row_size))
    row_step = max(1, min(rows, budget // row_size))
    for item in range(0, items, item_step):
        for row in range(0, rows, row_step):
            yield slice(item, item + item_step), row, min(row + row_step, rows)


def _gather_max(sources: Tensor, neighbors: Tensor, track: bool) -> tuple[Tensor, Tensor]:
    """Per channel, the largest of the neighbours' values and, if `track`, its rank k < K, both (B, G, N, c).

    They lie in memory as (B, N, G, c), as the network's channels do. NaN is the largest, and of equals the nearest
    wins. Ranks are uint8, int16 for K > 256.
    """
    _check_neighbors(sources, neighbors)
    if loops_take(sources) and neighbors.shape[3] <= 256:
        return gather_max_cpu(sources, neighbors, track)
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
    if loops_take(grad) and ranks.dtype == torch.uint8:
        return scatter_max_cpu(grad, neighbors, ranks, num_sources)
    batch, groups, _, dim = grad.shape
    dtype = search_dtype(grad)  # half precision is added up in float32
    result = grad.new_zeros(batch, num_sources, groups, dim, dtype=dtype).transpose(1, 2)
    return result.scatter_add_(2, neighbors.gather(3, ranks.long()), grad.to(dtype)).to(grad.dtype)


def _rank_dtype(neighbors: Tensor) -> torch.dtype:
    return torch.uint8 if neighbors.shape[3] <= 256 else torch.int16


def _flat_rows(sources: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Sources as (B·M·G, c) rows, and neighbours as indices (B, N, G, K) of these rows."""
    batch, groups, num_sources, dim = sources.shape
    index = neighbors.transpose(1, 2) * groups + torch.arange(groups, device=sources.device).view(-1, 1)
    first = torch.arange(batch, device=sources.device).view(-1, 1, 1, 1) * (num_sources * groups)
    return sources.transpose(1, 2).reshape(-1, dim), (index + first).contiguous()


def search_dtype(features: Tensor) -> torch.dtype:
    """What features are compared, and gradients added up, in: float32, or float64 for float64."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


# Custom ops, so that torch.compile, torch.export and the meta device see one node where a loop or a kernel runs. A
# second copy of this file in the process, which came with a model, takes the names over: what they mean never changes.
_find_neighbors = torch.library.custom_op("gkgnet::find_neighbors", _search, mutates_args=())
_gather_max_op = torch.library.custom_op("gkgnet::gather_max", _gather_max, mutates_args=())
_scatter_max_op = torch.library.custom_op("gkgnet::scatter_max", _scatter_max, mutates_args=())


@_find_neighbors.register_fake
def _(destinations, sources, num_neighbors, dilation, rows, columns):
    ranks = min(num_neighbors * dilation, sources.shape[2])
    return destinations.new_empty((*destinations.shape[:3], -(-ranks // dilation)), dtype=torch.long)


@register_flop_formula(torch.ops.gkgnet.find_neighbors)
def _find_neighbors_flops(destinations_shape, sources_shape, *args, **kwargs) -> int:
    batch, groups, num_destinations, dim = destinations_shape
    return 2 * batch * groups * num_destinations * sources_shape[2] * dim


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
    sources, neighbors, track = inputs
    ctx.save_for_backward(neighbors, output[1])
    ctx.num_sources = sources.shape[2]
    ctx.track = track


def _gather_max_backward(ctx, grad, _):
    if not ctx.track:
        raise RuntimeError("gkgnet::gather_max has gradients only with track=True")
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
    _check_bias(destinations, sources, rows, columns)
    return _on_gpu(_search, destinations, sources, num_neighbors, dilation, rows, columns)


@_gather_max_op.register_kernel("cuda")
def _(sources, neighbors, track):
    _check_neighbors(sources, neighbors)
    return _on_gpu(_gather_max, sources, neighbors, track)


@_scatter_max_op.register_kernel("cuda")
def _(grad, neighbors, ranks, num_sources):
    if torch.are_deterministic_algorithms_enabled():
        return _scatter_max(grad, neighbors, ranks, num_sources)
    return _on_gpu(_scatter_max, grad, neighbors, ranks, num_sources)


def _on_gpu(function: Callable, *arguments):
    """The result of the function's Triton kernel, or its own for float64 and where kernels are off or do not run."""
    kernel = _kernels().get(function)
    if kernel is None or not kernels_may_take(arguments[0]):
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
