"""The floor of a network: its convolutions and matrix products alone, with nothing between them."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from gkgnet_hf.modeling.group_knn import CPU_PIECE, DEVICE_PIECE, _pieces, search_dtype

Call = Callable[[], object]


def products_alone(step: Call) -> Call:
    """A function that makes every convolution and matrix product that `step` makes, in order, and nothing else.

    They take the weights of the network and random numbers for all else, of the same shape and layout in memory.
    """
    with _Recorder() as recorder:
        step()

    def floor() -> None:
        with torch.inference_mode():
            for call in recorder.calls:
                call()

    return floor


class _Recorder(TorchDispatchMode):
    """Writes down the calls that do multiply-adds, those for which `FlopCounterMode` has a formula."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.random: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.gkgnet.find_neighbors.default:
            self.calls += self.similarities(*args[:2], columns=args[5])
        elif func.overloadpacket in flop_registry:
            self.calls.append(partial(func, *tree_map_only(Tensor, self.stand_in, args), **kwargs))
        else:
            with self:  # inference mode shows F.conv2d itself, not what it calls
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)

    def stand_in(self, tensor: Tensor) -> Tensor:
        """A weight as it is, since each has its own place in memory; else random numbers, shared by equal layouts."""
        if isinstance(tensor, nn.Parameter) or tensor.is_mkldnn:  # a packed weight
            return tensor
        return self.numbers(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def numbers(self, shape: tuple, stride: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
        layout = (tuple(shape), tuple(stride), dtype, device)
        if layout not in self.random:
            last = sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
            self.random[layout] = torch.randn(last + 1, dtype=dtype, device=device).as_strided(shape, stride)
        return self.random[layout]

    def similarities(self, destinations: Tensor, sources: Tensor, columns: Tensor | None) -> Iterator[Call]:
        """The products inside the search, each piece into the same memory."""
        batch, groups, num_destinations, dim = destinations.shape
        num_sources, items = sources.shape[2], batch * groups
        width = 1 if columns is None else len(columns)
        budget = CPU_PIECE if destinations.device.type == "cpu" else DEVICE_PIECE
        kind = (search_dtype(destinations), destinations.device)
        queries = self.numbers((items, num_destinations, dim), (num_destinations * dim, dim, 1), *kind)
        keys = self.numbers((items, num_sources, dim), (num_sources * dim, dim, 1), *kind).mT
        size = min(items * num_destinations * num_sources, max(budget, width * num_sources))
        memory = self.numbers((size,), (1,), *kind)
        for chosen, first, last in _pieces(items, num_destinations // width, width * num_sources, budget):
            piece, key = queries[chosen, first * width : last * width], keys[chosen]
            similarity = memory[: len(piece) * piece.shape[1] * num_sources].view(*piece.shape[:2], num_sources)
            yield partial(torch.bmm, piece, key, out=similarity)
