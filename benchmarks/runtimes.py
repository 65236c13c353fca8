"""Time and memory of one image on a CPU thread: the default path, optimised, the exported files in their runtimes.

Each runtime is measured in several processes of its own, in turns with the others. A time is the least processor time
of one image, memory is the peak of a process from its start.

python -m benchmarks.runtimes --size 576
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

# PyTorch is imported only where it runs: the peak memory of a process counts what its parent held when it began.

SIZE = 576
IMAGES = 4


def main() -> None:
    """Print a row for each runtime."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.runtimes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="s", choices=["ti", "s", "m", "b"], help="size of GKGNet")
    parser.add_argument("--size", type=int, default=SIZE, help="side in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each runtime")
    options = parser.parse_args()
    runtimes = [name for name in RUNTIMES if name != "openvino" or find_spec("openvino")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runtimes}
    with tempfile.TemporaryDirectory() as folder:
        _child(f"write({options.variant!r}, {options.size}, {folder!r})")
        for _ in range(options.rounds):
            for name in runtimes:
                found[name].append(json.loads(_child(f"measure({name!r}, {options.size}, {folder!r})")))
    least = {name: min(each["seconds"] for each in rows) for name, rows in found.items()}
    print("| runtime | s | times default | peak MB |\n| --- | --- | --- | --- |")
    for name, rows in found.items():
        peak = max(each["peak_MB"] for each in rows)
        print(f"| {name} | {least[name]:.2f} | {least[name] / least['default']:.2f} | {peak:.0f} |")


def _child(call: str) -> str:
    command = [sys.executable, "-c", f"from benchmarks import runtimes; runtimes.{call}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def write(variant: str, size: int, folder: str) -> None:
    """A network of random weights, and its exported files."""
    import torch

    from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
    from gkgnet_hf.export import export_model

    torch.manual_seed(0)
    config = GKGNetConfig.from_variant(variant, image_size=size, num_labels=80)
    model = GKGNetForImageClassification(config).eval()
    model.save_pretrained(Path(folder, "model"))
    for format in ("onnx", "pt2"):
        export_model(model, create_image_processor(config), Path(folder, format), format)


def measure(name: str, size: int, folder: str) -> None:
    """Print what this process takes for one image, as JSON."""
    step = RUNTIMES[name](size, Path(folder))
    seconds = []
    for _ in range(IMAGES):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": min(seconds), "peak_MB": peak / 1e6}))


def _default(size: int, folder: Path, optimised: bool = False) -> Callable[[], object]:
    import torch

    from gkgnet_hf import GKGNetForImageClassification, optimize_for_inference

    model = GKGNetForImageClassification.from_pretrained(folder / "model").eval()
    if optimised:
        optimize_for_inference(model)
    image = torch.from_numpy(_image(size))
    return torch.inference_mode()(lambda: model(image))


def _optimised(size: int, folder: Path) -> Callable[[], object]:
    return _default(size, folder, optimised=True)


def _pt2(size: int, folder: Path) -> Callable[[], object]:
    import torch

    network = torch.export.load(folder / "pt2" / "model.pt2").module()
    image = torch.from_numpy(_image(size))
    return torch.inference_mode()(lambda: network(image))


def _image(size: int):
    import numpy as np

    return np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)


def _onnxruntime(size: int, folder: Path) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", options)
    inputs = {"pixel_values": _image(size)}
    return lambda: session.run(None, inputs)


def _openvino(size: int, folder: Path) -> Callable[[], object]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.compile_model(folder / "onnx" / "model.onnx", "CPU", settings)
    inputs = {"pixel_values": _image(size)}
    return lambda: network(inputs)


RUNTIMES: dict[str, Callable[[int, Path], Callable[[], object]]] = {
    "default": _default,
    "optimised": _optimised,
    "onnxruntime": _onnxruntime,
    "pt2": _pt2,
    "openvino": _openvino,
}

if __name__ == "__main__":
    main()
