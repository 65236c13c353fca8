"""Data loading: images a second of each augmentation, and the share of a training step that waits for data.

python -m benchmarks.loading --image-size 224 --batch-size 16
python -m benchmarks.loading --tables  # time and memory of reading large tables instead
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.training.transforms import AUGMENTATIONS, TransformedDataset, train_transform

NUM_LABELS = 80
NUM_FILES = 64  # read again and again, so that the disk is out of it
WORKERS = (0, 1, 2)
TABLES = {"columns": 10_000, "lists": 1_000_000}  # rows
MOST_LINKS = 30_000  # to one file
READING = """
import json, resource, sys, time
from gkgnet_hf.data import MultiLabelSource, label_names
memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
before, start = memory(), time.perf_counter()
source = MultiLabelSource(sys.argv[1])
dataset = source.load("all")
opened = time.perf_counter() - start
source.load("validation")
print(json.dumps({"labels": len(label_names(dataset)), "open": opened, "before_gb": before, "peak_gb": memory(),
                  "held_out": time.perf_counter() - start - opened}))
"""


def main() -> None:
    """Measure what the command line asks for and print it, as JSON with `--json`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batch-size", type=int, default=16, help="images a batch")
    parser.add_argument("--images", type=int, default=960, help="images to load for each rate")
    parser.add_argument("--variants", nargs="+", default=["ti", "s"], help="sizes of GKGNet to train")
    parser.add_argument("--steps", type=int, default=20, help="training steps for each share")
    parser.add_argument("--tables", action="store_true", help="read large tables, and nothing else")
    parser.add_argument("--scale", type=float, default=1.0, help="rows of these tables over those of the full size")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if options.tables:
        result = {name: reading(name, max(10, int(rows * options.scale))) for name, rows in TABLES.items()}
        print(json.dumps(result, indent=2) if options.json else table_of_reading(result))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder))
        result = {
            "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}",
            "torch": torch.__version__,
            "images_per_s": {
                name: {f"{n} workers": rate(loader(photos, name, n, options.images, options)) for n in WORKERS}
                for name in tqdm(AUGMENTATIONS, desc="Loading", leave=False)
            },
            "waiting_percent": {
                variant: waiting(variant, device, photos, options)
                for variant in tqdm(options.variants, desc="Training", leave=False)
            },
        }
    print(json.dumps(result, indent=2) if options.json else table(result))


def reading(kind: str, num_rows: int) -> dict[str, float]:
    """Seconds and GB of memory that reading a table takes, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder), kind, num_rows)
        done = subprocess.run([sys.executable, "-c", READING, folder], capture_output=True, text=True, check=True)
    return {"rows": num_rows, **json.loads(done.stdout.splitlines()[-1])}


def write_table(folder: Path, kind: str, num_rows: int) -> None:
    """Three labels a row, as a column of answers for each of 5,000 labels or as a list of 10,000; one picture."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    num_labels = 5000 if kind == "columns" else 10_000
    with (folder / "metadata.csv").open("w") as file:
        header = ",".join(f"label{i}" for i in range(num_labels)) if kind == "columns" else "labels"
        file.write(f"file_name,{header}\n")
        for row in tqdm(range(num_rows), desc=f"Writing {kind}", leave=False):
            if row % MOST_LINKS == 0:
                picture = folder / "images" / f"{row}.png"
                PILImage.new("RGB", (8, 8)).save(picture)
            else:
                os.link(picture, folder / "images" / f"{row}.png")
            ids = rng.integers(0, num_labels, 3)
            cells = np.zeros(num_labels, dtype=np.uint8)
            cells[ids] = 1
            listed = "|".join(f"label{i}" for i in sorted(set(ids.tolist())))
            file.write(f"images/{row}.png,{','.join(map(str, cells)) if kind == 'columns' else listed}\n")


def table_of_reading(result: dict) -> str:
    """The result of reading for a person to read."""
    lines = [f"{'':>8}{'rows':>12}{'labels':>9}{'open s':>9}{'held out s':>12}{'peak GB':>9}{'before GB':>11}"]
    lines += [
        f"{name:>8}{found['rows']:12,}{found['labels']:9,}{found['open']:9.1f}{found['held_out']:12.1f}"
        f"{found['peak_gb']:9.2f}{found['before_gb']:11.2f}"
        for name, found in result.items()
    ]
    return "\n".join(lines)


def write_photos(folder: Path) -> Dataset:
    """JPEG files of 640×480 with about as much in them as a photograph, as a multi-label dataset."""
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{i}.jpg") for i in range(NUM_FILES)]
    for path in paths:
        shapes = PILImage.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
        pixels = np.asarray(shapes) + rng.normal(0, 6, (480, 640, 1))
        PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    labels = (rng.random((NUM_FILES, NUM_LABELS)) < 0.04).astype(np.float32)
    return Dataset.from_dict({"image": paths, "labels": list(labels)}).cast_column("image", Image())


def loader(
    photos: Dataset, augmentation: str, num_workers: int, num_images: int, options: argparse.Namespace
) -> DataLoader:
    """Batches of `num_images` augmented images."""
    config = GKGNetConfig.from_variant("ti", image_size=options.image_size)
    transform = train_transform(create_image_processor(config), augmentation)
    rows = photos.select(np.arange(num_images) % NUM_FILES)
    return DataLoader(TransformedDataset(rows, transform), options.batch_size, num_workers=num_workers)


def rate(batches: DataLoader) -> float:
    """Images a second, after the first batch, when the workers have started."""
    iterator = iter(batches)
    next(iterator)
    start = time.perf_counter()
    count = sum(len(batch["labels"]) for batch in iterator)
    return count / (time.perf_counter() - start)


def waiting(variant: str, device: torch.device, photos: Dataset, options: argparse.Namespace) -> float:
    """Percent of the training time, after the first step, that is spent on waiting for two workers."""
    config = GKGNetConfig.from_variant(variant, image_size=options.image_size, num_labels=NUM_LABELS)
    model = GKGNetForImageClassification(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    iterator = iter(loader(photos, "paper", 2, (options.steps + 1) * options.batch_size, options))
    waits, steps = [], []
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        batch = next(iterator)
        waits.append(time.perf_counter() - start)
        loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        steps.append(time.perf_counter() - start)
    return 100 * sum(waits[1:]) / sum(steps[1:])


def table(result: dict) -> str:
    """The result for a person to read."""
    lines = [f"{result['machine']}, torch {result['torch']}", "", "Images a second"]
    lines.append(f"{'':>8}" + "".join(f"{f'{n} workers':>11}" for n in WORKERS))
    lines += [
        f"{name:>8}" + "".join(f"{value:11.0f}" for value in rates.values())
        for name, rates in result["images_per_s"].items()
    ]
    lines += ["", "Share of a training step that waits for 2 workers, augmentation paper"]
    lines += [f"gkgnet_{variant:3}{share:8.1f} %" for variant, share in result["waiting_percent"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
