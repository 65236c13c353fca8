"""Group K-nearest-neighbour graph: the search and the max-relative aggregation (GKGNet, arXiv 2308.14378, eq. 1).

Each function stands here twice. The `_plain` one materialises everything and reads like the equations; it is the
oracle. The other computes the same, without approximation, by an operator of `group_knn_ops`; it is what the network
runs.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .group_knn_ops import search_dtype


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
    dtype = search_dtype(destinations)
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
    if bias is None:
        return torch.ops.gkgnet.find_neighbors(destinations, sources, num_neighbors, dilation, None, None)
    return torch.ops.gkgnet.find_neighbors(destinations, sources, num_neighbors, dilation, bias[0], bias[1])


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

    Raises:
        ValueError: for neighbours of another dtype or shape.

    >>> sources = torch.tensor([[1.0, 5.0], [3.0, 2.0]]).view(1, 1, 2, 2)
    >>> max_relative(torch.ones(1, 1, 1, 2), sources, torch.tensor([[[[0, 1]]]])).tolist()
    [[[[2.0, 4.0]]]]
    """
    track = torch.is_grad_enabled() and sources.requires_grad
    return torch.ops.gkgnet.gather_max(sources, neighbors, track)[0] - destinations
