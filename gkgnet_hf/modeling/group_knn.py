"""Group K-nearest-neighbour graph: the search and the max-relative aggregation (GKGNet, arXiv 2308.14378, eq. 1).

Each function stands here twice. The `_plain` one materialises everything and reads like the equations; it is the
oracle. The other computes the same, without approximation, and is what the network runs: it visits the N×M
similarities a bounded piece at a time, and gathers neighbours one rank at a time.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import math

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
    if torch.is_grad_enabled() and sources.requires_grad:
        return sources.gather(2, _winners(sources.detach(), neighbors)) - destinations
    flat, index = _flat_rows(sources, neighbors)
    best = flat[index[..., 0]]
    for k in range(1, index.shape[-1]):
        best = torch.maximum(best, flat[index[..., k]])
    return best - destinations


def _winners(sources: Tensor, neighbors: Tensor) -> Tensor:
    """(B, G, N, c) int64: which source holds each channel's maximum; NaN is the largest."""
    flat, index = _flat_rows(sources.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf), neighbors)
    best = flat[index[..., 0]]
    rank = torch.zeros_like(best, dtype=torch.int16)
    for k in range(1, index.shape[-1]):
        candidate = flat[index[..., k]]
        rank = torch.maximum(rank, (candidate > best).to(torch.int16) * k)  # k only grows; vectorised, unlike a fill
        best = torch.maximum(best, candidate)
    return neighbors.gather(3, rank.long())


def _flat_rows(sources: Tensor, neighbors: Tensor) -> tuple[Tensor, Tensor]:
    """Sources as (B·G·M, c) rows, and neighbours as indices of these rows."""
    batch, groups, num_sources, dim = sources.shape
    offsets = torch.arange(batch * groups, device=sources.device).view(batch, groups, 1, 1) * num_sources
    return sources.reshape(-1, dim), neighbors + offsets


def _search_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32
