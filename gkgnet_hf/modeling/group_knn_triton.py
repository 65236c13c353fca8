"""Group K-nearest-neighbour graph on GPUs: Triton kernels for the search and the aggregation of `group_knn`.

They need Triton 3.4, which torch 2.8 brings, or later. Correctness is tested with Triton's interpreter
on CPU; block sizes were not measured.

Shapes: B images, G groups of channels, N destinations, M sources, K neighbours, c = C/G channels of a group.
"""

import torch
from torch import Tensor

try:  # within `try`, transformers does not ask everybody who loads this file from the Hub to install Triton
    import triton
    import triton.language as tl
except ImportError:
    raise

LOWEST = tl.constexpr(-(2**63))
HIGHEST = tl.constexpr(2**63 - 1)


def search(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int,
    rows: Tensor | None,
    columns: Tensor | None,
) -> Tensor:
    """`group_knn.find_neighbors` in one kernel: the K·d best of a block of destinations stay on chip.

    Float32 features are multiplied in float32, never in TF32, which would change the ranking. Float16 and bfloat16
    features fit into TF32 without loss, so they are multiplied in it, on tensor cores; sums, norms and bias are
    float32. Of sources at the same score the first come first. The position bias is read from its two tables: that is
    exact, and less work than further columns of the inner product would be.

    Args and result as in `group_knn.find_neighbors`; features float32, float16 or bfloat16, with any strides.
    """
    batch, groups, num_destinations, dim = destinations.shape
    num_sources = sources.shape[2]
    if rows is not None and columns is not None:
        rows, columns = rows.contiguous(), columns.contiguous()
    ranks = min(num_neighbors * dilation, num_sources)
    slots = triton.next_power_of_2(ranks)
    block_n = 32 if slots <= 64 else 16
    blocks = batch * groups * triton.cdiv(num_destinations, block_n)
    # Few destinations, such as labels, would leave most of a GPU idle: then several programs share the sources.
    parts = max(1, min(512 // max(blocks, 1), num_sources // 256))
    part_size = triton.cdiv(triton.cdiv(num_sources, parts), 64) * 64
    parts = triton.cdiv(num_sources, part_size)
    best = torch.empty(batch, groups, num_destinations, parts, ranks, dtype=torch.long, device=sources.device)
    _search_kernel[(blocks, parts)](
        destinations,
        sources,
        rows,
        columns,
        best,
        num_destinations,
        num_sources,
        part_size,
        groups,
        dim,
        ranks,
        1 if columns is None else columns.shape[0],
        *destinations.stride(),
        *sources.stride(),
        HAS_BIAS=rows is not None,
        PRECISION="ieee" if torch.float32 in (destinations.dtype, sources.dtype) else "tf32",
        SLOTS=slots,
        BLOCK_N=block_n,
        BLOCK_M=64,
        BLOCK_C=32,
    )
    best = best.flatten(3)
    if parts > 1:
        best = best.topk(ranks).values
    return 0x7FFFFFFF - (best[..., ::dilation] & 0xFFFFFFFF)


@triton.jit
def _search_kernel(
    destinations,
    sources,
    rows,
    columns,
    result,
    num_destinations,
    num_sources,
    part_size,
    groups,
    dim,
    ranks,
    width,
    destination_b,
    destination_g,
    destination_n,
    destination_c,
    source_b,
    source_g,
    source_m,
    source_c,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The packed scores of the best of `part_size` sources, for BLOCK_N destinations of one image and group."""
    blocks = tl.cdiv(num_destinations, BLOCK_N)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    row = n[:, None].to(tl.int64)  # times a stride, it may be more than 32 bits hold
    destinations += item // groups * destination_b + item % groups * destination_g + row * destination_n
    sources += item // groups * source_b + item % groups * source_g
    slot = tl.arange(0, SLOTS)[None, :].to(tl.int64)
    # An unsorted list of packed scores for each destination. Slots of no use are full from the start.
    used = (slot < ranks) & (n[:, None] < num_destinations)
    top = tl.where(used, LOWEST + 1 + slot, HIGHEST)
    start = tl.program_id(1) * part_size
    for first in range(start, tl.minimum(start + part_size, num_sources), BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        inside = m[None, :] < num_sources
        score = 2 * _cosine(
            destinations,
            sources + m[None, :].to(tl.int64) * source_m,
            n[:, None] < num_destinations,
            inside,
            dim,
            destination_c,
            source_c,
            PRECISION,
            BLOCK_N,
            BLOCK_M,
            BLOCK_C,
        )
        if HAS_BIAS:
            known = inside & (n[:, None] < num_destinations)
            score -= tl.load(rows + row // width * num_sources + m[None, :], mask=known, other=0)
            score -= tl.load(columns + row % width * num_sources + m[None, :], mask=known, other=0)
        top = _keep_best(top, tl.where(inside, _pack(score, m[None, :]), LOWEST))

    top = tl.where(used, top, LOWEST)
    result += ((item * num_destinations + n) * tl.num_programs(1) + tl.program_id(1)) * ranks
    best = tl.max(top, 1)
    for rank in range(0, ranks):
        tl.store(result + rank, best, mask=n < num_destinations)
        best = tl.max(tl.where(top < best[:, None], top, LOWEST), 1)


@triton.jit
def _cosine(
    destinations,
    sources,
    has_destination,
    has_source,
    dim,
    destination_c,
    source_c,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Cosines (BLOCK_N, BLOCK_M) of the features at the pointers (BLOCK_N, 1) and (1, BLOCK_M)."""
    products = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    destination_squares = tl.zeros((BLOCK_N,), tl.float32)
    source_squares = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, dim, BLOCK_C):
        c = (first + tl.arange(0, BLOCK_C)).to(tl.int64)
        query_mask, key_mask = has_destination & (c[None, :] < dim), has_source & (c[:, None] < dim)
        query = tl.load(destinations + c[None, :] * destination_c, mask=query_mask, other=0).to(tl.float32)
        key = tl.load(sources + c[:, None] * source_c, mask=key_mask, other=0).to(tl.float32)
        products = tl.dot(query, key, products, input_precision=PRECISION)
        destination_squares += tl.sum(query * query, 1)
        source_squares += tl.sum(key * key, 0)
    return products * _inverse_norm(destination_squares)[:, None] * _inverse_norm(source_squares)[None, :]


@triton.jit
def _inverse_norm(squares):
    return 1 / tl.maximum(tl.sqrt_rn(squares), 1e-12)  # the epsilon of F.normalize


@triton.jit
def _pack(score, m):
    """Scores and source indices in one int64 that sorts as (score, then lower index first); NaN is the highest."""
    bits = tl.where(score == score, score, float("inf")).to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) + (0x7FFFFFFF - m)


@triton.jit
def _keep_best(top, packed):
    """Put what is among the best of each row of `packed` into the row's list, in place of the worst there.

    After the first tiles few sources still are, so that most tiles cost little more than one maximum.
    """
    best, worst = tl.max(packed, 1), tl.min(top, 1)
    while tl.max((best > worst).to(tl.int32), 0) > 0:
        replaced = (top == worst[:, None]) & (best > worst)[:, None]
        top = tl.where(replaced, best[:, None], top)
        best = tl.max(tl.where(packed < best[:, None], packed, LOWEST), 1)
        worst = tl.min(top, 1)
    return top


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
