"""Group K-nearest-neighbour graph of GKGNet (https://arxiv.org/abs/2308.14378): the search, then eq. 1.

In each group of channels, every destination i finds its K nearest sources N(i), and eq. 1 takes from them, channel by
channel, `max over j in N(i) of (source_j − destination_i)`, with the sign of the released weights.

Each function stands here twice. The `_reference` one holds every similarity and every edge at once and reads like the
equations. The other gives the same result, without approximation, through an operator; it is what the network runs. In
a graph that is exported or traced for another runtime the reference takes its place: its operators are standard ones.

The operators `gkgnet::find_neighbors`, `gather_max` and `scatter_max` visit the N×M similarities a bounded piece at a
time and gather neighbours one rank at a time: nothing grows with N·M or N·K·C. On CPU, compiled loops (`group_knn_cpu`)
do the work where they were built; on CUDA, Triton kernels (`group_knn_triton`). `_run` says when PyTorch does it.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from .group_knn_cpu import gather_max as gather_max_cpu
from .group_knn_cpu import kernels_may_take, kernels_setting, loops_take, without_kernels
from .group_knn_cpu import scatter_max as scatter_max_cpu
from .group_knn_cpu import search as search_cpu


def find_neighbors_reference(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int = 1,
    bias: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Neighbours by distance `2 − 2·cos + bias`, nearest first: of the K·d nearest, ranks 0, d, 2d, … are kept.

    Args, result and errors as in `find_neighbors`. The smallest distances are found as the highest values of
    `2·cos − bias`.
    """
    if not _leaves_pytorch():
        rows, columns = (None, None) if bias is None else bias
        _check_search(destinations, sources, num_neighbors, dilation, rows, columns)
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
    exact at the default float32 matmul precision. Where PyTorch multiplies float32 features, everywhere but in the
    compiled loops on CPU, "high" and "medium" (TF32 and bfloat16) hold for these products too.

    Args:
        destinations: (B, G, N, c), float16, bfloat16, float32 or float64.
        sources: (B, G, M, c) on the same device, float64 if destinations are; M ≥ 1.
        num_neighbors: K ≥ 1.
        dilation: d ≥ 1. Of the K·d nearest sources, ranks 0, d, 2d, … are kept.
        bias: position bias as `position_bias` gives it: rows (H, M) and columns (W, M) with N = H·W.

    Returns:
        (B, G, N, K) int64 indices into the M sources, nearest first; with fewer than K·d sources, the ranks that
        exist, so K' = ⌈min(K·d, M) / d⌉ of them.

    Raises:
        ValueError: for tensors of another shape, dtype or device, and for numbers below 1.

    >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]).view(1, 1, 3, 2)
    >>> find_neighbors(points, points, num_neighbors=2).tolist()
    [[[[0, 2], [1, 2], [2, 0]]]]
    """
    if not torch.jit.is_scripting():  # noqa: SIM102, TorchScript prunes a condition only where it stands alone
        if _leaves_pytorch():
            return find_neighbors_reference(destinations, sources, num_neighbors, dilation, bias)
    destinations, sources = destinations.detach(), sources.detach()  # a choice has no derivative
    if bias is None:
        return torch.ops.gkgnet.find_neighbors(destinations, sources, num_neighbors, dilation, None, None)
    rows, columns = bias
    return torch.ops.gkgnet.find_neighbors(
        destinations, sources, num_neighbors, dilation, rows.detach(), columns.detach()
    )


def max_relative_reference(destinations: Tensor, sources: Tensor, neighbors: Tensor) -> Tensor:
    """Eq. 1 as written, with every edge (B, G, N, K, c) built: max over neighbours of (source − destination).

    Args, result and errors as in `max_relative`.
    """
    if not _leaves_pytorch():
        _check_relative(destinations, sources, neighbors)
        if not differentiates_functionally():
            _check_range(neighbors, sources.shape[2])
    batch, groups, num_sources, dim = sources.shape
    first = torch.arange(batch * groups, device=sources.device).view(batch, groups, 1, 1) * num_sources
    ends = F.embedding(neighbors + first, sources.reshape(-1, dim))
    return (ends - destinations.unsqueeze(3)).max(dim=3).values


def max_relative(destinations: Tensor, sources: Tensor, neighbors: Tensor) -> Tensor:
    """max over neighbours of (source − destination), per channel (paper eq. 1).

    It equals (max over neighbours of source) − destination, so nothing of size N·K·c is built. (An infinite destination
    gives the NaN of ∞ − ∞ only where the largest source is as infinite.) Gradients reach only the source that won each
    channel; between equal ones, the nearest. Derivatives of any order exist, in forward mode and in the transforms of
    `torch.func` too.

    Args:
        destinations: (B, G, N, c), float16, bfloat16, float32 or float64.
        sources: (B, G, M, c) on the same device, float64 if destinations are; M ≥ 1.
        neighbors: (B, G, N, K) int64 indices into the M sources; K ≥ 1.

    Returns:
        (B, G, N, c).

    Raises:
        ValueError: for tensors of another shape, dtype or device, and on CPU for neighbours that are none of the M
            sources. On a GPU, where finding them would take a wait for the device, all their channels become NaN.

    >>> sources = torch.tensor([[1.0, 5.0], [3.0, 2.0]]).view(1, 1, 2, 2)
    >>> max_relative(torch.ones(1, 1, 1, 2), sources, torch.tensor([[[[0, 1]]]])).tolist()
    [[[[2.0, 4.0]]]]
    """
    if not torch.jit.is_scripting():
        if _leaves_pytorch():
            return max_relative_reference(destinations, sources, neighbors)
        _check_relative(destinations, sources, neighbors)
        if differentiates_functionally():
            # The operator's own derivative is reverse mode's; these operators of PyTorch have all.
            with forward_ad._set_fwd_grad_enabled(False):
                ranks = torch.ops.gkgnet.gather_max(sources.detach(), neighbors, True)[1]
            return sources.gather(2, neighbors.gather(3, ranks.long())) - destinations
    track = torch.is_grad_enabled() and sources.requires_grad
    return torch.ops.gkgnet.gather_max(sources, neighbors, track)[0] - destinations


def winning_ranks(sources: Tensor, neighbors: Tensor) -> Tensor:
    """Which neighbour gave the maximum of eq. 1: its rank k < K for each channel, (B, G, N, c); arguments as above.

    >>> sources = torch.tensor([[1.0, 5.0], [3.0, 2.0]]).view(1, 1, 2, 2)
    >>> winning_ranks(sources, torch.tensor([[[[0, 1]]]])).tolist()
    [[[[1, 0]]]]
    """
    return torch.ops.gkgnet.gather_max(sources, neighbors, True)[1]


_exporter_knows_operators = False  # no ContextVar: compilers of older PyTorch cannot read one


@contextmanager
def operators_in_exports() -> Iterator[None]:
    """torch.export keeps the operators, for an exporter that knows them."""
    global _exporter_knows_operators
    before, _exporter_knows_operators = _exporter_knows_operators, True
    try:
        yield
    finally:
        _exporter_knows_operators = before


def _leaves_pytorch() -> bool:
    """Whether a graph is being made for a runtime that does not know the operators: torch.export, torch.jit.trace."""
    # The flag behind torch.compiler.is_exporting, which torch.compile of PyTorch 2.11 takes for true.
    return torch.jit.is_tracing() or (torch.compiler._is_exporting_flag and not _exporter_knows_operators)


def differentiates_functionally() -> bool:
    """Whether forward-mode derivatives or transforms of `torch.func` are at work, which know no custom operator."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Kernels count in 32 bits.
LARGEST_SIZE = 2**30
# Ranks that a thread of the Triton search keeps in registers.
LARGEST_LIST = 64


def _check_features(name: str, features: Tensor, shape: str) -> None:
    if features.dim() != 4 or features.dtype not in FLOATS or features.layout != torch.strided:
        raise ValueError(
            f"{name} must be a dense {shape} of float16, bfloat16, float32 or float64, got {_describe(features)}"
        )
    _check_sizes(name, *features.shape)


def _check_sizes(name: str, *sizes: int) -> None:
    for size in sizes:
        if isinstance(size, int) and size > LARGEST_SIZE:  # a size that is a symbol stands for any
            raise ValueError(f"{name} must have sizes of at most 2³⁰, got {tuple(sizes)}")


def _describe(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f" {tensor.layout}"
    return f"{tensor.dtype}{layout} {tuple(tensor.shape)} on {tensor.device}"


def _check_ends(destinations: Tensor, sources: Tensor) -> None:
    _check_features("destinations", destinations, "(B, G, N, c)")
    _check_sources(sources)
    batch, groups, _, dim = destinations.shape
    if (batch, groups, dim) != (sources.shape[0], sources.shape[1], sources.shape[3]):
        raise ValueError(
            f"destinations (B, G, N, c) and sources (B, G, M, c) must have the same B, G and c, "
            f"got {tuple(destinations.shape)} and {tuple(sources.shape)}"
        )
    if search_dtype(destinations) != search_dtype(sources) or destinations.device != sources.device:
        raise ValueError(
            f"destinations and sources must be on one device, and both float64 or neither, "
            f"got {_describe(destinations)} and {_describe(sources)}"
        )


def _check_sources(sources: Tensor) -> None:
    _check_features("sources", sources, "(B, G, M, c)")
    if sources.shape[2] < 1:
        raise ValueError(f"sources must be (B, G, M, c) with M ≥ 1, got {_describe(sources)}")


def _check_search(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int,
    rows: Tensor | None,
    columns: Tensor | None,
) -> None:
    """What `find_neighbors` asks of its arguments; a ValueError names what came."""
    _check_ends(destinations, sources)
    if sources.shape[3] < 1:
        raise ValueError(f"destinations and sources must have channels to compare, got {_describe(sources)}")
    for name, number in (("num_neighbors", num_neighbors), ("dilation", dilation)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
        _check_sizes(name, number)
    if rows is None and columns is None:
        return
    if rows is None or columns is None:
        raise ValueError("bias must have both rows and columns, got one of them")
    num_destinations, num_sources = destinations.shape[2], sources.shape[2]
    if (
        not rows.dim() == columns.dim() == 2
        or not rows.shape[1] == columns.shape[1] == num_sources
        or rows.shape[0] * columns.shape[0] != num_destinations
    ):
        raise ValueError(
            f"bias must be rows (H, {num_sources}) and columns (W, {num_sources}) with H·W = {num_destinations}, "
            f"got {tuple(rows.shape)} and {tuple(columns.shape)}"
        )
    for table in (rows, columns):
        if table.dtype not in FLOATS or table.layout != torch.strided or table.device != destinations.device:
            raise ValueError(
                f"bias must be dense and floating, on {destinations.device} as the features, got {_describe(table)}"
            )


def _check_neighbors(neighbors: Tensor, features: Tensor) -> None:
    batch, groups = features.shape[:2]
    if (
        neighbors.dtype != torch.long
        or neighbors.layout != torch.strided
        or neighbors.dim() != 4
        or neighbors.shape[0] != batch
        or neighbors.shape[1] != groups
        or neighbors.shape[3] < 1
        or neighbors.device != features.device
    ):
        raise ValueError(
            f"neighbors must be int64 ({batch}, {groups}, N, K) on {features.device} with K ≥ 1, "
            f"got {_describe(neighbors)}"
        )
    _check_sizes("neighbors", *neighbors.shape)


def _check_relative(destinations: Tensor, sources: Tensor, neighbors: Tensor) -> None:
    """What `max_relative` asks of its arguments."""
    _check_ends(destinations, sources)
    _check_neighbors(neighbors, sources)
    if neighbors.shape[2] != destinations.shape[2]:
        raise ValueError(
            f"neighbors must be (B, G, {destinations.shape[2]}, K), one row for each destination, "
            f"got {tuple(neighbors.shape)}"
        )


def _check_gather(sources: Tensor, neighbors: Tensor) -> None:
    _check_sources(sources)
    _check_neighbors(neighbors, sources)


def _check_scatter(grad: Tensor, neighbors: Tensor, ranks: Tensor, num_sources: int) -> None:
    _check_features("grad", grad, "(B, G, N, c)")
    _check_neighbors(neighbors, grad)
    if neighbors.shape[2] != grad.shape[2]:
        raise ValueError(
            f"neighbors must be (B, G, {grad.shape[2]}, K), as grad has {grad.shape[2]} destinations, "
            f"got {tuple(neighbors.shape)}"
        )
    dtype = _rank_dtype(neighbors)
    if ranks.dtype != dtype or ranks.layout != torch.strided or ranks.shape != grad.shape:
        raise ValueError(f"ranks must be a dense {dtype} {tuple(grad.shape)}, got {_describe(ranks)}")
    if ranks.device != grad.device:
        raise ValueError(f"ranks must be on {grad.device} as grad is, got {_describe(ranks)}")
    if num_sources < 1:
        raise ValueError(f"num_sources must be at least 1, got {num_sources}")
    _check_sizes("num_sources", num_sources)


def _check_range(neighbors: Tensor, num_sources: int) -> None:
    """On CPU, ValueError for neighbours that are none of the sources; a GPU is not waited for."""
    if neighbors.device.type == "cpu" and neighbors.numel():
        low, high = neighbors.aminmax()
        if low < 0 or high >= num_sources:
            raise ValueError(f"neighbors must be indices of {num_sources} sources, got some from {low} to {high}")


def _refuse_forward_mode() -> None:
    """The operators have no forward-mode derivative, and without an error PyTorch would take it for zero."""
    if forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled():
        names = "gkgnet::gather_max and gkgnet::scatter_max"
        raise NotImplementedError(f"{names} have no forward-mode derivative, but max_relative has")


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
    wins. Ranks are uint8, int16 for K > 256 and int32 for K > 32,767.
    """
    _check_range(neighbors, sources.shape[2])
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
    _check_range(neighbors, num_sources)
    num_neighbors = neighbors.shape[3]
    if ranks.device.type == "cpu" and ranks.numel() and ranks.max() >= num_neighbors:
        raise ValueError(f"ranks must be below {num_neighbors}, the number of neighbours, got {ranks.max()}")
    winners = neighbors.gather(3, ranks.long().clamp(0, num_neighbors - 1))
    if grad.device.type != "cpu":
        known = (winners >= 0) & (winners < num_sources)
        winners, grad = winners.clamp(0, num_sources - 1), torch.where(known, grad, 0)
    result = _zero_gradients(grad, num_sources)
    return result.scatter_add_(2, winners, grad.to(result.dtype)).to(grad.dtype)


def _zero_gradients(grad: Tensor, num_sources: int) -> Tensor:
    """(B, G, M, c) to add up in: gradients of half precision in float32."""
    batch, groups, _, dim = grad.shape
    return grad.new_zeros(batch, num_sources, groups, dim, dtype=search_dtype(grad)).transpose(1, 2)


def _rank_dtype(neighbors: Tensor) -> torch.dtype:
    num_neighbors = neighbors.shape[3]
    return torch.uint8 if num_neighbors <= 256 else torch.int16 if num_neighbors <= 32768 else torch.int32


def _flat_rows(sources: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Sources as (B·M·G, c) rows, and neighbours as indices (B, N, G, K) of these rows.

    Off the CPU, whose neighbours `_check_range` has seen, a last row of NaN is for neighbours that are no sources.
    """
    batch, groups, num_sources, dim = sources.shape
    index = neighbors.transpose(1, 2) * groups + torch.arange(groups, device=sources.device).view(-1, 1)
    first = torch.arange(batch, device=sources.device).view(-1, 1, 1, 1) * (num_sources * groups)
    flat, index = sources.transpose(1, 2).reshape(-1, dim), (index + first).contiguous()
    if sources.device.type == "cpu":
        return flat, index
    known = ((neighbors >= 0) & (neighbors < num_sources)).transpose(1, 2)
    return F.pad(flat, (0, 0, 0, 1), value=torch.nan), torch.where(known, index, len(flat)).contiguous()


def search_dtype(features: Tensor) -> torch.dtype:
    """What features are compared, and gradients added up, in: float32, or float64 for float64."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _find_neighbors_operator(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int,
    rows: Tensor | None,
    columns: Tensor | None,
) -> Tensor:
    _check_search(destinations, sources, num_neighbors, dilation, rows, columns)
    if destinations.shape[:3].numel() == 0:
        return _empty_neighbors(destinations, sources, num_neighbors, dilation)
    return _run(_search, destinations, sources, num_neighbors, dilation, rows, columns)


def _empty_neighbors(destinations: Tensor, sources: Tensor, num_neighbors: int, dilation: int) -> Tensor:
    ranks: Any = torch.sym_min(num_neighbors * dilation, sources.shape[2])  # a size may be a symbol
    return destinations.new_empty((*destinations.shape[:3], -(-ranks // dilation)), dtype=torch.long)


def _gather_max_operator(sources: Tensor, neighbors: Tensor, track: bool) -> tuple[Tensor, Tensor]:
    _check_gather(sources, neighbors)
    _refuse_forward_mode()
    if neighbors.numel() == 0 or sources.shape[3] == 0:
        return _empty_maxima(sources, neighbors, track)
    return _run(_gather_max, sources, neighbors, track)


def _empty_maxima(sources: Tensor, neighbors: Tensor, track: bool) -> tuple[Tensor, Tensor]:
    batch, groups, num_destinations, _ = neighbors.shape
    values = sources.new_empty(batch, num_destinations, groups, sources.shape[3])
    ranks = values.new_empty(values.shape if track else 0, dtype=_rank_dtype(neighbors))
    return values.transpose(1, 2), ranks.transpose(1, 2) if track else ranks


def _scatter_max_operator(grad: Tensor, neighbors: Tensor, ranks: Tensor, num_sources: int) -> Tensor:
    _check_scatter(grad, neighbors, ranks, num_sources)
    _refuse_forward_mode()
    if grad.numel() == 0:
        return _empty_gradients(grad, num_sources).zero_()
    return _run(_scatter_max, grad, neighbors, ranks, num_sources)


def _empty_gradients(grad: Tensor, num_sources: int) -> Tensor:
    batch, groups, _, dim = grad.shape
    return grad.new_empty(batch, num_sources, groups, dim).transpose(1, 2)


# Custom ops, so that torch.compile, torch.export and the meta device see one node where a loop or a kernel runs. A
# second copy of this file in the process, which came with a model, takes the names over: what they mean never changes.
_find_neighbors = torch.library.custom_op("gkgnet::find_neighbors", _find_neighbors_operator, mutates_args=())
_gather_max_op = torch.library.custom_op("gkgnet::gather_max", _gather_max_operator, mutates_args=())
_scatter_max_op = torch.library.custom_op("gkgnet::scatter_max", _scatter_max_operator, mutates_args=())


@_find_neighbors.register_fake
def _(destinations, sources, num_neighbors, dilation, rows, columns):
    _check_search(destinations, sources, num_neighbors, dilation, rows, columns)
    return _empty_neighbors(destinations, sources, num_neighbors, dilation)


@register_flop_formula(torch.ops.gkgnet.find_neighbors)
def _find_neighbors_flops(destinations_shape, sources_shape, *args, **kwargs) -> int:
    batch, groups, num_destinations, dim = destinations_shape
    return 2 * batch * groups * num_destinations * sources_shape[2] * dim


@_gather_max_op.register_fake
def _(sources, neighbors, track):
    _check_gather(sources, neighbors)
    return _empty_maxima(sources, neighbors, track)


@_scatter_max_op.register_fake
def _(grad, neighbors, ranks, num_sources):
    _check_scatter(grad, neighbors, ranks, num_sources)
    return _empty_gradients(grad, num_sources)


def _keep_winners(ctx, inputs, output):
    sources, neighbors, track = inputs
    ctx.save_for_backward(neighbors, output[1])
    ctx.num_sources = sources.shape[2]
    ctx.track = track


def _gather_max_backward(ctx, grad, _):
    if not ctx.track:
        raise RuntimeError("gkgnet::gather_max has gradients only with track=True")
    neighbors, ranks = ctx.saved_tensors
    if differentiates_functionally():
        result, winners = _zero_gradients(grad, ctx.num_sources), neighbors.gather(3, ranks.long())
        return result.scatter_add(2, winners, grad.to(result.dtype)).to(grad.dtype), None, None
    return torch.ops.gkgnet.scatter_max(grad, neighbors, ranks, ctx.num_sources), None, None


def _scatter_max_backward(ctx, grad):
    neighbors, ranks = ctx.saved_tensors
    return grad.gather(2, neighbors.gather(3, ranks.long())), None, None, None


_gather_max_op.register_autograd(_gather_max_backward, setup_context=_keep_winners)
_scatter_max_op.register_autograd(
    _scatter_max_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[1:3])
)


def _run(function: Callable, *arguments):
    """The result of `_search`, `_gather_max` or `_scatter_max`: by PyTorch or a kernel, as `GKGNET_KERNELS` says.

    off: by PyTorch. on: by a kernel, or there is an error. auto, the default: by a kernel that takes the arguments, but
    on its first use in the process it solves a small problem too. If PyTorch solves that otherwise, or if the kernel
    fails, then or later, PyTorch takes its place for good, and one warning says so.

    Operators are opaque to torch.compile, so that nothing of this is in a compiled graph.
    """
    kernel, setting = _kernel(function, *arguments), kernels_setting()
    if kernel is None and setting == "on":
        features, numbers = arguments[0], [x for x in arguments if isinstance(x, int)]
        raise RuntimeError(
            f"GKGNET_KERNELS=on, but no kernel does {function.__name__.strip('_')} with {features.dtype} on "
            f"{features.device}, shapes {[tuple(x.shape) for x in arguments if torch.is_tensor(x)]} and {numbers}"
        )
    if kernel is None or (setting == "auto" and not _agrees(function, kernel, *arguments)):
        with without_kernels():
            return function(*arguments)
    try:
        return _on_device(kernel, *arguments)
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # no C compiler, a GPU that is too old or too small, …: Triton has no common class
        if setting == "on":
            raise
        _give_up(function, kernel, f"failed with {error!r}", *arguments)
        with without_kernels():
            return function(*arguments)


def _kernel(function: Callable, *arguments) -> Callable | None:
    """The kernel that takes these arguments, if there is one."""
    features, second = arguments[:2]
    if not (kernels_may_take(features) and kernels_may_take(second)):
        return None
    if function is not _search and second.shape[3] > 256:  # ranks of more than a byte
        return None
    if function is _search and features.device.type == "cuda":
        num_neighbors, dilation = arguments[2:4]
        if min(num_neighbors * dilation, second.shape[2]) > LARGEST_LIST:
            return None
    if function is _scatter_max and features.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return None  # the order of atomic additions varies
    return _kernels(features.device.type).get(function)


def _kernels(device_type: str) -> dict[Callable, Callable]:
    """The kernels of `_search`, `_gather_max` and `_scatter_max` for such devices, as far as they are there."""
    if device_type == "cpu" and loops_take(torch.empty(0, device="cpu", dtype=torch.float32)):
        return {_search: search_cpu, _gather_max: gather_max_cpu, _scatter_max: scatter_max_cpu}
    return _triton_kernels() if device_type == "cuda" else {}


@functools.cache
def _triton_kernels() -> dict[Callable, Callable]:
    try:
        from .group_knn_triton import gather_max, scatter_max, search
    except ImportError:
        return {}
    in_pieces = functools.partial(search, pieces=functools.partial(_pieces, budget=DEVICE_PIECE))
    return {_search: in_pieces, _gather_max: gather_max, _scatter_max: scatter_max}


def _on_device(kernel: Callable, *arguments):
    if arguments[0].device.type != "cuda":
        return kernel(*arguments)
    with torch.cuda.device_of(arguments[0]):
        return kernel(*arguments)


# Whether a kernel may be used, as its first use has shown. Two threads may find out at the same time: with the same
# result, and without a lock that a forked process could inherit.
_verdicts: dict[tuple, bool] = {}


def _use(function: Callable, *arguments) -> tuple:
    """(device, two dtypes, numbers): what selects code within a kernel, so what a verdict holds for."""
    features, second = arguments[:2]
    if function is _search:
        return features.device, features.dtype, second.dtype, *arguments[2:4], arguments[4] is not None
    return features.device, features.dtype, second.dtype, second.shape[3], function is _gather_max and arguments[2]


def _agrees(function: Callable, kernel: Callable, *arguments) -> bool:
    """Whether the kernel solves a small random problem as PyTorch does."""
    use = _use(function, *arguments)
    verdict = _verdicts.get((kernel, *use))
    if verdict is not None:
        return verdict
    if arguments[0].device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # Comparing would wait for the device, which breaks a capture.
        warnings.warn(
            "PyTorch takes the place of GKGNet's kernels in this CUDA graph: run the network once before the capture",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    try:
        same = SOLVES[function](kernel, *use)
        reason = "finds another result than PyTorch"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # as in `_run`
        same, reason = False, f"failed with {error!r}"
    if same:
        return _verdicts.setdefault((kernel, *use), True)
    _give_up(function, kernel, reason, *arguments)
    return False


def _give_up(function: Callable, kernel: Callable, reason: str, *arguments) -> None:
    use = _use(function, *arguments)
    if _verdicts.get((kernel, *use), True):
        _verdicts[(kernel, *use)] = False
        message = f"GKGNet's kernel for {function.__name__.strip('_')} on {use[0]} {reason}, so PyTorch takes its place"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


# The small problem: no size is a multiple of a kernel's block.
BATCH, GROUPS, HEIGHT, WIDTH, NUM_SOURCES, DIM = 2, 2, 3, 14, 150, 40
FEATURES = BATCH, GROUPS, HEIGHT * WIDTH, DIM


def _numbers(seed: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32).to(device, dtype)


def _indices(seed: int, below: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu").to(device)


def _solves_search(
    kernel: Callable,
    device: torch.device,
    dtype: torch.dtype,
    second_dtype: torch.dtype,
    num_neighbors: int,
    dilation: int,
    biased: bool,
) -> bool:
    """Whether the sources that the kernel finds are as near as those that the search in float64 finds."""
    destinations = _numbers(0, FEATURES, device, dtype)
    destinations[:, :, ::2] -= 2  # their nearest sources are far: even the highest scores are negative
    sources = _numbers(1, (BATCH, GROUPS, NUM_SOURCES, DIM), device, second_dtype) + 1
    rows = columns = None
    queries, keys = destinations.double(), sources.double()
    scores = 2 * F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).mT
    if biased:
        rows, columns = (0.1 * _numbers(size, (size, NUM_SOURCES), device) for size in (HEIGHT, WIDTH))
        scores = scores - (rows.double()[:, None] + columns.double()).flatten(0, 1)
    expected = scores.topk(min(num_neighbors * dilation, NUM_SOURCES)).values[..., ::dilation]
    found = _on_device(kernel, destinations, sources, num_neighbors, dilation, rows, columns)
    if found.shape != expected.shape or found.dtype != torch.long or found.min() < 0 or found.max() >= NUM_SOURCES:
        return False
    return torch.allclose(scores.gather(3, found), expected, rtol=0, atol=1e-5)


def _solves_gather_max(
    kernel: Callable,
    device: torch.device,
    dtype: torch.dtype,
    second_dtype: torch.dtype,
    num_neighbors: int,
    track: bool,
) -> bool:
    sources = _numbers(1, (BATCH, GROUPS, NUM_SOURCES, DIM), device, dtype)
    sources[0, :, ::2] = sources[0, :, 1::2]  # ties
    sources[1, 0, 0, 0] = torch.nan
    arguments = sources, _indices(2, NUM_SOURCES, (*FEATURES[:3], num_neighbors), device), track
    with without_kernels():
        expected = _gather_max(*arguments)
    found = _on_device(kernel, *arguments)
    return all(
        x.shape == y.shape and x.dtype == y.dtype and torch.equal(x.nan_to_num(7), y.nan_to_num(7))
        for x, y in zip(found, expected, strict=True)
    )


def _solves_scatter_max(
    kernel: Callable,
    device: torch.device,
    dtype: torch.dtype,
    second_dtype: torch.dtype,
    num_neighbors: int,
    track: bool,
) -> bool:
    grad = _numbers(0, FEATURES, device, dtype)
    neighbors = _indices(2, NUM_SOURCES, (*FEATURES[:3], num_neighbors), device)
    ranks = _indices(3, num_neighbors, FEATURES, device).to(_rank_dtype(neighbors))
    expected = _scatter_max(grad.double(), neighbors, ranks, NUM_SOURCES)
    found = _on_device(kernel, grad, neighbors, ranks, NUM_SOURCES)
    if found.shape != expected.shape or found.dtype != dtype:
        return False
    return torch.allclose(found.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-5)


SOLVES: dict[Callable, Callable] = {
    _search: _solves_search,
    _gather_max: _solves_gather_max,
    _scatter_max: _solves_scatter_max,
}
