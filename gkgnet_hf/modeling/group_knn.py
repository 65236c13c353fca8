"""Group K-nearest-neighbour graph: the search and the max-relative aggregation (GKGNet, arXiv 2308.14378, eq. 1).

Each function stands here twice. The `_plain` one materialises everything and reads like the equations; it is the
oracle. The other computes the same, without approximation, and is what the network runs: it visits the N×M
similarities a bounded piece at a time, and gathers neighbours one rank at a time.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import group_knn_cpu

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


# A custom op, so that torch.compile, torch.export and the meta device see one node where a loop runs. A second copy of
# this file in the process, which came with a model, takes the name over: what the name means may never change.
@torch.library.custom_op("gkgnet::find_neighbors", mutates_args=())
def _find_neighbors(
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
    features = features.to(_search_dtype(features))
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp_min_(1e-12)
    unit = torch.empty(features.shape, dtype=features.dtype, device=features.device)
    return torch.div(features, length, out=unit).flatten(0, 1)


def _choose(
    similarity: Tensor, bias: tuple[Tensor, Tensor] | None, first: int, ranks: int, dilation: int, out: Tensor
) -> None:
    """Ranks 0, d, 2d, … of `2 · similarity − bias` (items, R, M), whose first row is of grid row `first` → `out`."""
    if group_knn_cpu.takes(similarity):
        group_knn_cpu.select(similarity, bias, first, ranks, dilation, out)
        return
    if bias is not None:
        rows, columns = bias
        grid = similarity.unflatten(1, (-1, len(columns)))  # (items, grid rows, W, M)
        grid.mul_(2).sub_(columns).sub_(rows[first : first + grid.shape[1], None])
    out.copy_(similarity.topk(ranks).indices[..., ::dilation])


@_find_neighbors.register_fake
def _(destinations, sources, num_neighbors, dilation, rows, columns):
    ranks = min(num_neighbors * dilation, sources.shape[2])
    return destinations.new_empty((*destinations.shape[:3], -(-ranks // dilation)), dtype=torch.long)


@register_flop_formula(torch.ops.gkgnet.find_neighbors)
def _find_neighbors_flops(destinations_shape, sources_shape, *args, **kwargs) -> int:
    batch, groups, num_destinations, dim = destinations_shape
    return 2 * batch * groups * num_destinations * sources_shape[2] * dim


def _pieces(items: int, rows: int, row_size: int, budget: int):
    """Cut `items` × `rows` × `row_size` similarities into pieces of bounded size: (slice of items, first, last row)."""
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
    values, _ = torch.ops.gkgnet.gather_max(sources, neighbors, track)
    return values - destinations


@torch.library.custom_op("gkgnet::gather_max", mutates_args=())
def _gather_max(sources: Tensor, neighbors: Tensor, track: bool) -> tuple[Tensor, Tensor]:
    """max over neighbours of the sources (B, G, N, c), and with `track` the rank of the neighbour that won, uint8."""
    if group_knn_cpu.takes(sources):
        return group_knn_cpu.gather_max(sources, neighbors, track)
    flat, index = _flat_rows(sources, neighbors)
    best = flat[index[..., 0]]  # (B, N, G, c)
    if not track:
        for k in range(1, index.shape[-1]):
            best = torch.maximum(best, flat[index[..., k]])
        return best.transpose(1, 2), best.new_empty(0, dtype=torch.uint8)
    winners = torch.zeros_like(best, dtype=torch.uint8)
    for k in range(1, index.shape[-1]):
        candidate = flat[index[..., k]]
        won = (candidate > best) | (candidate.isnan() & ~best.isnan())
        winners = torch.maximum(winners, won * winners.new_tensor(k))  # k only grows; vectorised, unlike a fill
        best = torch.maximum(best, candidate)
    return best.transpose(1, 2), winners.transpose(1, 2)


@_gather_max.register_fake
def _(sources, neighbors, track):
    batch, groups, _, dim = sources.shape
    values = sources.new_empty(batch, neighbors.shape[2], groups, dim)
    winners = (
        torch.empty_like(values, dtype=torch.uint8).transpose(1, 2) if track else values.new_empty(0, dtype=torch.uint8)
    )
    return values.transpose(1, 2), winners


@torch.library.custom_op("gkgnet::scatter_max", mutates_args=())
def _scatter_max(grad: Tensor, neighbors: Tensor, winners: Tensor, num_sources: int) -> Tensor:
    """The backward of gather_max: the gradient (B, G, N, c) of the maxima → that of the sources (B, G, M, c)."""
    if group_knn_cpu.takes(grad):
        return group_knn_cpu.scatter_max(grad, neighbors, winners, num_sources)
    batch, groups, _, dim = grad.shape
    zeros = grad.new_zeros(batch, num_sources, groups, dim).transpose(1, 2)
    return zeros.scatter_add_(2, neighbors.gather(3, winners.long()), grad)


@_scatter_max.register_fake
def _(grad, neighbors, winners, num_sources):
    batch, groups, _, dim = grad.shape
    return grad.new_empty(batch, num_sources, groups, dim).transpose(1, 2)


def _keep_winners(ctx, inputs, output) -> None:
    sources, neighbors, _ = inputs
    ctx.save_for_backward(neighbors, output[1])
    ctx.num_sources = sources.shape[2]
    ctx.mark_non_differentiable(output[1])


def _gather_max_backward(ctx, grad, _):
    return torch.ops.gkgnet.scatter_max(grad, *ctx.saved_tensors, ctx.num_sources), None, None


_gather_max.register_autograd(_gather_max_backward, setup_context=_keep_winners)


def _flat_rows(sources: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Sources as (B·M·G, c) rows, and neighbours as indices (B, N, G, K) of these rows."""
    batch, groups, num_sources, dim = sources.shape
    index = neighbors.transpose(1, 2) * groups + torch.arange(groups, device=sources.device).view(-1, 1)
    first = torch.arange(batch, device=sources.device).view(-1, 1, 1, 1) * (num_sources * groups)
    return sources.transpose(1, 2).reshape(-1, dim), (index + first).contiguous()


def _search_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32
