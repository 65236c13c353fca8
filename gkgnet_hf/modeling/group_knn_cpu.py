"""The compiled loops of group_knn.c, where they were built: the search, gathering a maximum.

PyTorch does the same where `loops_take` says no.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

# Of group_knn.c: one that was built from another version is not called.
INTERFACE = 4


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(Path(__file__).with_name("libgroup_knn.so")))
        return library if library.gkgnet_interface() == INTERFACE else None
    except (OSError, AttributeError):  # not built, or not for this machine or its OpenMP
        return None


def kernels_setting() -> str:
    """`GKGNET_KERNELS` of the environment: "auto" (the default), "on" or "off".

    Raises:
        ValueError: for anything else.
    """
    setting = os.environ.get("GKGNET_KERNELS", "auto")
    if setting not in ("auto", "on", "off"):
        raise ValueError(f"GKGNET_KERNELS must be auto, on or off, got {setting!r}")
    return setting


_thread = threading.local()


@contextmanager
def without_kernels() -> Iterator[None]:
    """No kernel takes anything in this thread, whatever the setting."""
    before = getattr(_thread, "without_kernels", False)
    _thread.without_kernels = True
    try:
        yield
    finally:
        _thread.without_kernels = before


def kernels_may_take(tensor: Tensor) -> bool:
    """Whether kernels of any kind may replace PyTorch: not for float64, nor under `GKGNET_KERNELS=off`."""
    return (
        tensor.dtype != torch.float64 and kernels_setting() != "off" and not getattr(_thread, "without_kernels", False)
    )


def loops_take(tensor: Tensor) -> bool:
    """Whether the compiled loops are there for this tensor."""
    return tensor.device.type == "cpu" and kernels_may_take(tensor) and _library() is not None


def search(
    destinations: Tensor,
    sources: Tensor,
    num_neighbors: int,
    dilation: int,
    rows: Tensor | None,
    columns: Tensor | None,
) -> Tensor:
    """`group_knn.find_neighbors`: arguments and result as the op's."""
    half = destinations.dtype == sources.dtype == torch.bfloat16
    if not half:
        destinations, sources = destinations.float(), sources.float()
    destinations, sources = _with_rows(destinations), _with_rows(sources)
    batch, groups, num_destinations, dim = destinations.shape
    num_sources = sources.shape[2]
    ranks = min(num_neighbors * dilation, num_sources)
    tables = [None if table is None else table.float().contiguous() for table in (rows, columns)]
    # Without a bias, more sources than can be collected may be equally near within the precision of bfloat16.
    widest = BFLOAT16_PRODUCTS if half or rows is not None else BFLOAT16_PRODUCTS - 1
    neighbors = torch.empty(batch, groups, num_destinations, -(-ranks // dilation), dtype=torch.long)
    failed = _call(
        "gkgnet_search",
        *(destinations, _strides(destinations), sources, _strides(sources), int(half)),
        *(batch, groups, num_destinations, num_sources, dim, *tables, 1 if columns is None else len(columns)),
        *(ranks, dilation, torch.get_num_threads(), min(widest, instructions()), neighbors),
    )
    if failed:
        raise MemoryError(f"No memory to search {num_sources} sources of {dim} channels")
    return neighbors


# The highest number of an instruction set.
BFLOAT16_PRODUCTS = 3


def instructions() -> int:
    """The best instruction set of this processor, as `gkgnet_instructions` numbers them."""
    return _call("gkgnet_instructions")


def gather_max(sources: Tensor, neighbors: Tensor, track: bool) -> tuple[Tensor, Tensor]:
    """Maximum over the neighbours' rows, and with `track` which neighbour won: arguments and result as the op's.

    Raises:
        ValueError: if a neighbour is none of the sources.
    """
    batch, groups, num_sources, dim = sources.shape
    half = sources.dtype == torch.bfloat16
    rows = _with_rows(sources if half else sources.float())
    values = rows.new_empty(batch, neighbors.shape[2], groups, dim)
    ranks = torch.empty_like(values, dtype=torch.uint8) if track else values.new_empty(0, dtype=torch.uint8)
    numbers = (batch, groups, *neighbors.shape[2:], num_sources, dim)
    arguments = (rows, _strides(rows), int(half), neighbors.contiguous(), *numbers, values, ranks if track else None)
    if _call("gkgnet_gather_max", *arguments):
        raise ValueError(f"neighbors must be indices of {num_sources} sources, got others")
    return values.to(sources.dtype).transpose(1, 2), ranks.transpose(1, 2) if track else ranks


def scatter_max(grad: Tensor, neighbors: Tensor, ranks: Tensor, num_sources: int) -> Tensor:
    """The gradient of the sources from that of their maxima: arguments and result as the op's.

    Raises:
        ValueError: if a neighbour is none of the sources, or a rank that of no neighbour.
    """
    batch, groups, num_destinations, dim = grad.shape
    half = grad.dtype == torch.bfloat16
    rows = (grad if half else grad.float()).transpose(1, 2).contiguous()
    out = rows.new_empty(batch, num_sources, groups, dim)
    num_neighbors = neighbors.shape[3]
    numbers = (batch, groups, num_destinations, num_neighbors, num_sources, dim)
    ranks = ranks.transpose(1, 2).contiguous()
    wrong = _call("gkgnet_scatter_max", rows, int(half), neighbors.contiguous(), ranks, *numbers, out)
    if wrong == 1:
        raise ValueError(f"neighbors must be indices of {num_sources} sources, got others")
    if wrong == 2:
        raise ValueError(f"ranks must be below {num_neighbors}, the number of neighbours, got others")
    if wrong:
        raise MemoryError(f"No memory to add up the gradients of {num_sources} sources")
    return out.to(grad.dtype).transpose(1, 2)


def _with_rows(features: Tensor) -> Tensor:
    """The features (B, G, N, c) with the channels of a node side by side, as the network has them."""
    return features if features.stride(3) == 1 else features.contiguous()


def _strides(features: Tensor) -> ctypes.Array:
    return (ctypes.c_int64 * 3)(*features.stride()[:3])


def _call(name: str, *arguments: object) -> int:
    function = getattr(_library(), name)
    return function(*map(_argument, arguments))


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else value
