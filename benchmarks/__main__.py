"""Default path against plain path: time in interleaved pairs, peak memory in fresh processes.

python -m benchmarks --image-size 576 --repeats 7
"""

import argparse
import contextlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification

from .paths import plain_path


def main() -> None:
    """Measure what the command line asks for and print it, as JSON with `--json`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="s", choices=["ti", "s", "m", "b"], help="size of GKGNet")
    parser.add_argument("--image-size", type=int, default=576, help="side in pixels")
    parser.add_argument("--batch-size", type=int, default=1, help="images a batch")
    parser.add_argument("--train", action="store_true", help="forward and backward instead of inference")
    parser.add_argument("--repeats", type=int, default=7, help="pairs to measure")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--peak-of", choices=["default", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_memory(options))
        return
    # First, while this process is small: Linux counts a parent's memory into the peak of its child.
    peaks = {f"{path}_peak_MB": fresh_peak(path) for path in ("default", "plain")}
    start = time.perf_counter()
    model, pixel_values = build(options)
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "construction_s": time.perf_counter() - start,
        **times(model, pixel_values, options),
        **peaks,
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        for name, value in result.items():
            print(f"{name:>22}  {value:.3f}" if isinstance(value, float) else f"{name:>22}  {value}")


def build(options: argparse.Namespace) -> tuple[GKGNetForImageClassification, torch.Tensor]:
    """The model, in training mode where that is measured, and a batch."""
    config = GKGNetConfig.from_variant(options.variant, image_size=options.image_size, num_labels=80)
    model = GKGNetForImageClassification(config).train(options.train)
    return model, torch.randn(options.batch_size, 3, options.image_size, options.image_size)


def step(model: GKGNetForImageClassification, pixel_values: torch.Tensor) -> float:
    """Seconds of one inference, or of one forward and backward."""
    start = time.perf_counter()
    if model.training:
        labels = torch.zeros(len(pixel_values), model.num_labels)
        model(pixel_values, labels=labels).loss.backward()
        model.zero_grad()
    else:
        with torch.inference_mode():
            model(pixel_values)
    return time.perf_counter() - start


def times(
    model: GKGNetForImageClassification, pixel_values: torch.Tensor, options: argparse.Namespace
) -> dict[str, float]:
    """Medians of both paths, and median and range of their ratio over the pairs."""
    pairs = []
    for _ in range(options.repeats + 1):
        with plain_path():
            plain = step(model, pixel_values)
        pairs.append((step(model, pixel_values), plain))
    pairs = pairs[1:]  # the first pair warms up
    ratios = [plain / default for default, plain in pairs]
    return {
        "default_s": statistics.median(default for default, _ in pairs),
        "plain_s": statistics.median(plain for _, plain in pairs),
        "plain_over_default": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }


def fresh_peak(path: str) -> float:
    """Peak memory in MB of this benchmark's model in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--peak-of", path]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_memory(options: argparse.Namespace) -> float:
    """Peak memory in MB of this process after two steps."""
    model, pixel_values = build(options)
    with plain_path() if options.peak_of == "plain" else contextlib.nullcontext():
        for _ in range(2):
            step(model, pixel_values)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes a unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()
