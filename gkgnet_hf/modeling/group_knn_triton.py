"""Group K-nearest-neighbour graph on GPUs: Triton kernels for the search and the aggregation of `group_knn`.

They need Triton 3.4, which torch 2.8 brings, or later. `WARPS`, `STEP` and the size of a piece were chosen on an H200.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import functools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

try:  # within `try`, transformers does not ask everybody who loads this file from the Hub to install Triton
    import triton
    import triton.language as tl
except ImportError:
    raise

WARP = tl.constexpr(32)
STEP = tl.constexpr(4)  # candidates looked at together
WARPS = 4096  # side by side, what a large GPU needs to be busy


def search(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int,
    rows: Tensor | None,
    columns: Tensor | None,
    pieces: Callable[[int, int, int], Iterable[tuple[slice, int, int]]],
) -> Tensor:
    """`group_knn.find_neighbors` with a kernel that chooses: each thread keeps the K·d best of one destination in
    registers, in order, while it reads the products of a piece of bounded size.

    The products are those of PyTorch. Features of half precision are multiplied on tensor cores, without loss, and
    added up in float32; norms and bias are float32. Of sources at the same score the first come first.

    Args and result as in `group_knn.find_neighbors`; features float32, float16 or bfloat16, with any strides;
    K·d or M at most `group_knn.LARGEST_LIST`. `pieces` cuts items, grid rows and the products of a grid row.
    """
    batch, groups, num_destinations, dim = destinations.shape
    items, num_sources = batch * groups, sources.shape[2]
    queries, keys = destinations.reshape(items, -1, dim), sources.reshape(items, -1, dim)
    query_scale, key_scale = _inverse_norm(queries), _inverse_norm(keys)
    width = 1
    if rows is not None and columns is not None:
        width = len(columns)
        rows, columns = rows.mT.contiguous(), columns.mT.contiguous()  # as threads side by side read them
    ranks = min(num_neighbors * dilation, num_sources)
    kept = -(-ranks // dilation)
    neighbors = torch.empty(items, num_destinations, kept, dtype=torch.long, device=keys.device)
    with torch.autocast(keys.device.type, enabled=False):
        for item, first, last in pieces(items, num_destinations // width, width * num_sources):
            piece = slice(first * width, last * width)
            scales = query_scale[item, piece], key_scale[item]
            products = _multiply(keys[item], queries[item, piece].mT)
            _choose(products, *scales, rows, columns, first, dilation, ranks, neighbors[item, piece])
            del products  # before the next are there
    return neighbors.unflatten(0, (batch, groups))


def _inverse_norm(features: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(features, dim=-1, dtype=torch.float32)
    return norm.clamp_min_(1e-12).reciprocal_()  # the epsilon of F.normalize


def _multiply(keys: Tensor, queries: Tensor) -> Tensor:
    if keys.dtype == queries.dtype != torch.float32 and keys.device.type == "cuda":
        return torch.bmm(keys, queries, out_dtype=torch.float32)
    return torch.bmm(keys.float(), queries.float())


def _choose(
    products: Tensor,
    query_scale: Tensor,
    key_scale: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    first: int,
    dilation: int,
    ranks: int,
    neighbors: Tensor,
) -> None:
    """The best of each destination of `products` (items, M, n), whose first is of grid row `first` → `neighbors`."""
    items, num_sources, count = products.shape
    warps = triton.cdiv(count, WARP.value)
    # Few destinations, such as labels, would leave most of a GPU idle: then several warps share the sources.
    parts = max(1, min(WARPS // (items * warps), math.isqrt(num_sources // ranks)))
    options = {"RANKS": ranks, "DILATION": dilation, "num_warps": 1}
    scores = indices = None
    if parts > 1:
        scores = products.new_empty(items, parts * ranks, count)
        indices = products.new_empty(items, parts * ranks, count, dtype=torch.int32)
    _choose_kernel[items * warps, parts](
        products,
        query_scale,
        key_scale,
        rows,
        columns,
        scores,
        indices,
        neighbors,
        count,
        num_sources,
        triton.cdiv(num_sources, parts),
        first,
        1 if rows is None else rows.shape[1],
        1 if columns is None else columns.shape[1],
        query_scale.stride(0),
        neighbors.stride(0),
        HAS_BIAS=rows is not None,
        LAST=parts == 1,
        **options,
    )
    if parts > 1:
        _merge_kernel[(items * warps,)](
            scores, indices, neighbors, count, parts * ranks, neighbors.stride(0), **options
        )


# One compilation for all sizes: these kernels load and store one number a thread, whatever divides the sizes.
SIZES = ["count", "num_sources", "part_size", "first", "height", "width", "scale_item", "neighbors_item", "candidates"]
POINTERS = ["products", "query_scale", "key_scale", "rows", "columns", "scores", "indices", "neighbors"]
for_all_sizes = functools.partial(triton.jit, do_not_specialize=SIZES, do_not_specialize_on_alignment=POINTERS)


@for_all_sizes
def _choose_kernel(
    products,
    query_scale,
    key_scale,
    rows,
    columns,
    scores,
    indices,
    neighbors,
    count,
    num_sources,
    part_size,
    first,
    height,
    width,
    scale_item,
    neighbors_item,
    HAS_BIAS: tl.constexpr,
    LAST: tl.constexpr,
    RANKS: tl.constexpr,
    DILATION: tl.constexpr,
):
    """The best of `part_size` sources, for a destination a thread: the list as it is, or if it is the last the
    neighbours."""
    item, n, known = _destinations(count)
    scale = 2 * tl.load(query_scale + item * scale_item + n, mask=known, other=0)
    products += item * num_sources * count + n
    key_scale += item * num_sources
    if HAS_BIAS:
        rows += first + n // width
        columns += n % width
    start = tl.program_id(1) * part_size
    end = tl.minimum(start + part_size, num_sources)
    top, found = _empty_list(RANKS)
    for m in range(start, end, STEP):
        batch, batch_indices = (), ()
        for step in tl.static_range(STEP):
            source = m + step
            inside = known & (source < end)
            score = tl.load(products + source.to(tl.int64) * count, mask=inside, other=0)
            score *= scale * tl.load(key_scale + source, mask=source < end, other=0)
            if HAS_BIAS:
                score -= tl.load(rows + source * height, mask=inside, other=0)
                score -= tl.load(columns + source * width, mask=inside, other=0)
            score = tl.where(score == score, score, float("inf"))  # NaN is the nearest
            batch += (tl.where(inside, score, float("-inf")),)
            batch_indices += (source,)
        top, found = _keep_best(top, found, batch, batch_indices, RANKS)
    if LAST:
        _write_neighbors(found, neighbors + item * neighbors_item, n, known, RANKS, DILATION)
    else:
        place = (item * tl.num_programs(1) + tl.program_id(1)) * RANKS * count + n
        for rank in tl.static_range(RANKS):
            tl.store(scores + place, top[rank], mask=known)
            tl.store(indices + place, found[rank], mask=known)
            place += count


@for_all_sizes
def _merge_kernel(
    scores,
    indices,
    neighbors,
    count,
    candidates,
    neighbors_item,
    RANKS: tl.constexpr,
    DILATION: tl.constexpr,
):
    """The neighbours out of the lists of all parts, for a destination a thread."""
    item, n, known = _destinations(count)
    place = item * candidates * count + n
    top, found = _empty_list(RANKS)
    for first in range(0, candidates, STEP):
        batch, batch_indices = (), ()
        for step in tl.static_range(STEP):
            inside = known & (first + step < candidates)
            batch += (tl.load(scores + place, mask=inside, other=float("-inf")),)
            batch_indices += (tl.load(indices + place, mask=inside, other=0),)
            place += count
        top, found = _keep_best(top, found, batch, batch_indices, RANKS)
    _write_neighbors(found, neighbors + item * neighbors_item, n, known, RANKS, DILATION)


@triton.jit
def _destinations(count):
    """(item, n, whether this n exists) of each thread of this program."""
    warps = tl.cdiv(count, WARP)
    n = tl.program_id(0) % warps * WARP + tl.arange(0, WARP)
    return (tl.program_id(0) // warps).to(tl.int64), n, n < count


@triton.jit
def _empty_list(RANKS: tl.constexpr):
    top, found = (), ()
    for rank in tl.static_range(RANKS):
        top += (tl.full((WARP,), float("-inf"), tl.float32),)
        found += (tl.full((WARP,), rank, tl.int32),)  # a source that exists
    return top, found


@triton.jit
def _keep_best(top, found, scores, indices, RANKS: tl.constexpr):
    """Put what of `scores` is among the best into the list, unless no thread of the warp has any."""
    highest = scores[0]
    for i in tl.static_range(1, len(scores)):
        highest = tl.maximum(highest, scores[i])
    if tl.max((highest > top[RANKS - 1]).to(tl.int32), 0) > 0:
        for i in tl.static_range(len(scores)):
            top, found = _insert(top, found, scores[i], indices[i], RANKS)
    return top, found


@triton.jit
def _insert(top, found, score, index, RANKS: tl.constexpr):
    """Behind what is as good, and what was last falls out."""
    new_top, new_found = (), ()
    for rank in tl.static_range(RANKS):
        better = score > top[rank]
        new_top += (tl.where(better, score, top[rank]),)
        new_found += (tl.where(better, index, found[rank]),)
        score, index = tl.where(better, top[rank], score), tl.where(better, found[rank], index)
    return new_top, new_found


@triton.jit
def _write_neighbors(found, neighbors, n, known, RANKS: tl.constexpr, DILATION: tl.constexpr):
    neighbors += n.to(tl.int64) * tl.cdiv(RANKS, DILATION)
    for rank in tl.static_range(0, RANKS, DILATION):
        tl.store(neighbors + rank // DILATION, found[rank], mask=known)


def gather_max(sources: Tensor, neighbors: Tensor, track: bool) -> tuple[Tensor, Tensor]:
    """`group_knn._gather_max` in one kernel; sources float32, float16 or bfloat16, with any strides; K ≤ 256.

    A neighbour that is none of the sources is not read. It counts as NaN.
    """
    batch, groups, num_sources, dim = sources.shape
    num_destinations, num_neighbors = neighbors.shape[2:]
    values = sources.new_empty(batch, num_destinations, groups, dim)
    ranks = torch.empty(values.shape if track else 0, dtype=torch.uint8, device=values.device)
    grid, blocks = _gather_grid(batch * groups, num_destinations, dim)
    _gather_max_kernel[grid](
        sources,
        neighbors.contiguous(),
        values,
        ranks,
        num_destinations,
        num_sources,
        groups,
        dim,
        *sources.stride(),
        NUM_NEIGHBORS=num_neighbors,
        TRACK=track,
        **blocks,
    )
    return values.transpose(1, 2), ranks.transpose(1, 2) if track else ranks


def scatter_max(grad: Tensor, neighbors: Tensor, ranks: Tensor, num_sources: int) -> Tensor:
    """`group_knn._scatter_max` in one kernel; gradients float32, float16 or bfloat16, with any strides.

    They are added up in float32 by atomic additions, whose order, and so the last bits of the sums, vary. The gradient
    of a neighbour that is none of the sources, and of a rank that is none of the K, is dropped.
    """
    batch, groups, num_destinations, dim = grad.shape
    result = torch.zeros(batch, num_sources, groups, dim, device=grad.device)
    grid, blocks = _gather_grid(batch * groups, num_destinations, dim)
    _scatter_max_kernel[grid](
        grad,
        neighbors.contiguous(),
        ranks.transpose(1, 2).contiguous(),
        result,
        num_destinations,
        num_sources,
        groups,
        dim,
        neighbors.shape[3],
        *grad.stride(),
        **blocks,
    )
    return result.to(grad.dtype).transpose(1, 2)


def _gather_grid(items: int, num_destinations: int, dim: int) -> tuple[tuple[int, int], dict[str, int]]:
    block_c = min(64, triton.next_power_of_2(dim))
    block_n = 1024 // block_c
    grid = (items * triton.cdiv(num_destinations, block_n), triton.cdiv(dim, block_c))
    return grid, {"BLOCK_N": block_n, "BLOCK_C": block_c}


@triton.jit
def _gather_max_kernel(
    sources,
    neighbors,
    values,
    ranks,
    num_destinations,
    num_sources,
    groups,
    dim,
    source_b,
    source_g,
    source_m,
    source_c,
    NUM_NEIGHBORS: tl.constexpr,
    TRACK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The aggregation of BLOCK_N destinations in BLOCK_C channels of one image and group."""
    image, group, n, c, inside = _block(num_destinations, groups, dim, BLOCK_N, BLOCK_C)
    sources += image * source_b + group * source_g + c * source_c
    neighbors += ((image * groups + group) * num_destinations + n) * NUM_NEIGHBORS
    known = n < num_destinations
    index = tl.load(neighbors, mask=known, other=0)
    real = inside & (index >= 0) & (index < num_sources)
    best = tl.load(sources + index * source_m, mask=real, other=float("nan")).to(tl.float32)
    rank = tl.zeros((BLOCK_N, BLOCK_C), tl.int32)
    for k in tl.static_range(1, NUM_NEIGHBORS):  # unrolled, so that the loads do not wait for each other
        index = tl.load(neighbors + k, mask=known, other=0)
        real = inside & (index >= 0) & (index < num_sources)
        candidate = tl.load(sources + index * source_m, mask=real, other=float("nan")).to(tl.float32)
        better = (candidate > best) | ((candidate != candidate) & (best == best))
        best = tl.where(better, candidate, best)
        rank = tl.where(better, k, rank)
    to = ((image * num_destinations + n) * groups + group) * dim + c
    tl.store(values + to, best, mask=inside)
    if TRACK:
        tl.store(ranks + to, rank, mask=inside)


@triton.jit
def _scatter_max_kernel(
    grad,
    neighbors,
    ranks,
    result,
    num_destinations,
    num_sources,
    groups,
    dim,
    num_neighbors,
    grad_b,
    grad_g,
    grad_n,
    grad_c,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Adds the gradients of BLOCK_N destinations in BLOCK_C channels of one image and group to the winners'."""
    image, group, n, c, inside = _block(num_destinations, groups, dim, BLOCK_N, BLOCK_C)
    grad += image * grad_b + group * grad_g + n * grad_n + c * grad_c
    rank = tl.load(ranks + ((image * num_destinations + n) * groups + group) * dim + c, mask=inside, other=0)
    neighbors += ((image * groups + group) * num_destinations + n) * num_neighbors
    winner = tl.load(neighbors + rank, mask=inside & (rank < num_neighbors), other=-1)
    real = inside & (winner >= 0) & (winner < num_sources)
    result += ((image * num_sources + winner) * groups + group) * dim + c
    tl.atomic_add(result, tl.load(grad, mask=real, other=0), mask=real, sem="relaxed")


@triton.jit
def _block(num_destinations, groups, dim, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """(image, group, n, c, which of these n and c exist) of this program."""
    blocks = tl.cdiv(num_destinations, BLOCK_N)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    n = (tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N))[:, None].to(tl.int64)
    c = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :].to(tl.int64)
    return item // groups, item % groups, n, c, (n < num_destinations) & (c < dim)
