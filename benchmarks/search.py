"""The searches of GKGNet on CPU: compiled, in PyTorch alone, and their matrix products alone.

The features are those of a network with random weights that looks at a photograph, so they are smooth.

python -m benchmarks.search --size 576 --threads 1
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification
from gkgnet_hf.modeling import group_knn, group_knn_cpu
from gkgnet_hf.modeling.configuration_gkgnet import VARIANTS

from .floor import products_alone
from .report import markdown

INSTRUCTIONS = ("baseline", "AVX2", "AVX-512", "AVX-512, bfloat16 products")


def main() -> None:
    """Print a row for each kind of search: median milliseconds of one, and how many the network makes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="s", choices=list(VARIANTS), help="size of GKGNet")
    parser.add_argument("--size", type=int, default=576, help="side in pixels")
    parser.add_argument("--batch-size", type=int, default=1, help="images a batch")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15, help="rounds to measure, each way once a round")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    searches = searches_of(options.variant, options.size, options.batch_size, getattr(torch, options.dtype))
    body = []
    with torch.inference_mode():
        for kind, alike in itertools.groupby(searches, key=kind_of):
            every = list(alike)
            body.append([kind, str(len(every)), *milliseconds(ways(every[-1]), options.repeats)])
    print("\n".join(markdown([["search", "times", *ways(searches[0])], *body])))


def searches_of(variant: str, size: int, batch_size: int, dtype: torch.dtype) -> list[tuple]:
    """The arguments of each search of a forward pass."""
    torch.manual_seed(0)
    picture = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None] / 255
    picture = (F.interpolate(picture, size=(size, size), mode="bicubic", antialias=True) - 0.45) / 0.225
    pictures = picture.expand(batch_size, -1, -1, -1)
    network = GKGNetForImageClassification(GKGNetConfig.from_variant(variant, image_size=size, num_labels=80))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the statistics are those of the one picture
    with torch.no_grad():
        network.train()(torch.cat([picture, picture.flip(3)]))
        with _Recorder() as recorder:
            network.eval().to(dtype)(pictures.to(dtype))
    return recorder.searches


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.searches: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.gkgnet.find_neighbors.default:
            self.searches.append(args)
        return func(*args, **(kwargs or {}))


def kind_of(search: tuple) -> str:
    destinations, sources, num_neighbors, dilation = search[:4]
    batch, groups, num_destinations, dim = destinations.shape
    size = f"{batch * groups} × {num_destinations:,} × {sources.shape[2]:,}"
    return f"{size}, {dim} channels, {num_neighbors * dilation} ranks"


def ways(search: tuple) -> dict[str, Callable[[], object]]:
    """What is measured: a function for each."""
    best = group_knn_cpu.instructions()
    return {
        "products alone": products_alone(lambda: torch.ops.gkgnet.find_neighbors(*search)),
        "PyTorch": lambda: group_knn._search(*search),
        **{INSTRUCTIONS[k]: lambda k=k: search_with(k, search) for k in range(1, best + 1)},
    }


def search_with(instructions: int, search: tuple) -> Tensor:
    with patch.object(group_knn_cpu, "instructions", lambda: instructions):
        return group_knn_cpu.search(*search)


def milliseconds(functions: dict[str, Callable[[], object]], repeats: int) -> list[str]:
    """Median time of each, measured in turn; the first round is dropped."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return [f"{1000 * statistics.median(each[1:]):.1f} ms" for each in times.values()]


if __name__ == "__main__":
    main()
