"""Labelling a collection: pictures a second against ResNet-101 in timm's loader, and memory against their number.

python -m benchmarks.collection            # speed: GKGNet-S and ResNet-101 at 224 pixels, in turns, a process each
python -m benchmarks.collection --memory   # 1,000 and 100,000 small pictures with a very small network
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor

NUM_PHOTOS = 400
NUM_FILES = 16  # different ones; the others are links to them
ROUNDS = 3
SIZES = (1_000, 100_000)

# What timm's inference.py does, but for its options: its loader, its transforms, a model in channels-last.
TIMM = """
import sys, time, timm, torch
from timm.data import ImageDataset, create_loader, resolve_data_config
folder, workers = sys.argv[1], int(sys.argv[2])
model = timm.create_model("resnet101", num_classes=80).eval().to(memory_format=torch.channels_last)
config = resolve_data_config({"input_size": (3, 224, 224)}, model=model)
loader = create_loader(ImageDataset(folder), batch_size=16, use_prefetcher=False, num_workers=workers, device="cpu",
    **{key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")})
start, count = time.perf_counter(), 0
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[3] == "bfloat16"):
    for images, _ in loader:
        model(images.contiguous(memory_format=torch.channels_last)).sigmoid().float().numpy()
        count += len(images)
print(count / (time.perf_counter() - start))
"""

MEMORY = """
import resource, sys
from gkgnet_hf.cli import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, file=sys.stderr)
"""


def write_photos(folder: Path, count: int) -> Path:
    """Photo-like JPEG files of 1,600 × 1,200 pixels: smooth colours with noise."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"{i:04}.jpg"
        if i < NUM_FILES:
            coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((1600, 1200), Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = (pixels + generator.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(file, quality=90)
        else:
            os.link(folder / f"{i % NUM_FILES:04}.jpg", file)
    return folder


def write_model(folder: Path, config: GKGNetConfig) -> str:
    """A model of random weights and its image processor."""
    GKGNetForImageClassification(config).save_pretrained(folder)
    create_image_processor(config).save_pretrained(folder)
    return str(folder)


def run(*words: str) -> str:
    """What a command prints on both outputs."""
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def measure_speed(place: Path, workers: int) -> dict[str, list[float]]:
    """Pictures a second of each contender in each round, and the share of the time that GKGNet's network waited."""
    photos = write_photos(place / "photos", NUM_PHOTOS)
    model = write_model(place / "model", GKGNetConfig.from_variant("s", num_labels=80))
    found: dict[str, list[float]] = {}
    for round_ in range(ROUNDS):
        for name, options in (("GKGNet-S", []), ("GKGNet-S --exact", ["--exact"])):
            output = str(place / f"{round_}-{len(options)}.parquet")
            words = (
                "-m",
                "gkgnet_hf",
                "predict",
                model,
                str(photos),
                "--num-workers",
                str(workers),
                "--output",
                output,
            )
            text = run(sys.executable, *words, *options)
            speed, waited = re.findall(r"([\d.]+) a second; the network waited (\d+)%", text)[0]
            found.setdefault(name, []).append(float(speed))
            found.setdefault(f"{name}, % of the time waiting", []).append(float(waited))
        for dtype in ("bfloat16", "float32"):
            speed = run(sys.executable, "-c", TIMM, str(photos), str(workers), dtype).split()[-1]
            found.setdefault(f"ResNet-101, {dtype}", []).append(float(speed))
    return found


def measure_memory(place: Path) -> dict[int, dict[str, float]]:
    """Peak memory of the main process in MB, and seconds, for each number of pictures."""
    config = GKGNetConfig(hidden_sizes=(8, 8, 8, 8), depths=(1, 1, 1, 1), image_size=32, num_labels=10)
    model = write_model(place / "model", config)
    source = place / "source.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(source)
    found = {}
    for count in SIZES:
        folder = place / str(count)
        for i in range(count):
            if i % 1000 == 0:  # a folder of its own, since a file system bounds the links of a file
                (folder / f"{i // 1000:03}").mkdir(parents=True)
                (folder / f"{i // 1000:03}" / "first.png").write_bytes(source.read_bytes())
            else:
                os.link(folder / f"{i // 1000:03}" / "first.png", folder / f"{i // 1000:03}" / f"{i}.png")
        start = time.perf_counter()
        output = str(place / f"{count}.parquet")
        words = ("predict", model, str(folder), "--batch-size", "64", "--num-workers", "1", "--output", output)
        text = run(sys.executable, "-c", MEMORY, *words)
        found[count] = {"MB": float(text.split()[-1]), "seconds": time.perf_counter() - start}
    return found


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure memory in place of speed")
    parser.add_argument("--num-workers", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            print(json.dumps(measure_memory(Path(folder)), indent=1))
            return
        speeds = measure_speed(Path(folder), arguments.num_workers)
    print(json.dumps(speeds, indent=1))
    print(json.dumps({name: statistics.median(values) for name, values in speeds.items()}, indent=1))


if __name__ == "__main__":
    main()
