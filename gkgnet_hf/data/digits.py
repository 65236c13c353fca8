"""Scenes of real handwritten digits, written to disk as ordinary COCO files.

scikit-learn ships 1,797 digits of 8×8 pixels (https://archive.ics.uci.edu/dataset/80). A scene shows about three of
them, from a few pixels to half the image high, bright among dark clutter. Validation scenes use digits that no
training scene shows.
"""

import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from ..files import removed_on_error

DIGITS = (2, 5)  # least and most in a scene
SMALLEST_DIGIT = 8  # pixels
LARGEST_DIGIT = 0.5  # of the image
PLACES_TRIED = 10


def make_digits(
    directory: str | os.PathLike[str],
    num_train: int = 8000,
    num_validation: int = 1000,
    image_size: int = 96,
    seed: int = 0,
) -> Path:
    """Write `train/`, `val/` and `annotations/instances_{train,val}.json` into a new or empty folder.

    Args:
        directory: the folder to write; created if it does not exist.
        num_train, num_validation: scenes of each split.
        image_size: side in pixels.
        seed: of everything random; the same seed writes the same files.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder holds anything.

    Example:

        make_digits("digits")
        train = load_coco("digits/train", "digits/annotations/instances_train.json")
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} must be empty, it holds {next(directory.iterdir()).name}")
    images, classes = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8)
    train, validation = train_test_split(np.arange(len(images)), test_size=0.25, random_state=seed, stratify=classes)
    with removed_on_error(directory):
        (directory / "annotations").mkdir()
        splits = (("train", train, num_train), ("val", validation, num_validation))
        for i, (split, numbers, count) in enumerate(splits):
            rng = np.random.default_rng([seed, i])
            _write_split(directory, split, images[numbers], classes[numbers], count, image_size, rng)
    return directory


def _write_split(
    directory: Path,
    split: str,
    digits: NDArray[np.float64],
    classes: NDArray[np.int64],
    count: int,
    image_size: int,
    rng: np.random.Generator,
) -> None:
    (directory / split).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in tqdm(range(1, count + 1), desc=f"Drawing {split} scenes", unit="image"):
        scene, boxes = _draw_scene(digits, image_size, rng)
        name = f"{image_id:06d}.png"
        scene.save(directory / split / name)
        images.append({"id": image_id, "file_name": name, "width": image_size, "height": image_size})
        for digit, (x, y, side) in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(classes[digit]) + 1,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": "Scenes of handwritten digits"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": d + 1, "name": str(d), "supercategory": "digit"} for d in range(10)],
    }
    (directory / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _draw_scene(
    digits: NDArray[np.float64], size: int, rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[int, tuple[int, int, int]]]]:
    """One scene, and for each digit in it its number and box (x, y, side)."""
    scene = _background(size, rng)
    boxes: list[tuple[int, tuple[int, int, int]]] = []
    for _ in range(rng.integers(DIGITS[0], DIGITS[1] + 1)):
        side = int(rng.uniform(SMALLEST_DIGIT, LARGEST_DIGIT * size))
        places = rng.integers(0, size - side + 1, (PLACES_TRIED, 2)).tolist()
        free = [(x, y, side) for x, y in places if all(_apart((x, y, side), b) for _, b in boxes)]
        if free:
            digit = int(rng.integers(len(digits)))
            _paste(scene, digits[digit], free[0], tuple(rng.integers(180, 256, 3).tolist()))
            boxes.append((digit, free[0]))
    noise = rng.normal(0, rng.uniform(0, 8), (size, size, 3))
    pixels = np.clip(np.asarray(scene, dtype=np.float64) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), boxes


def _background(size: int, rng: np.random.Generator) -> Image.Image:
    """A dark field with clutter: lines, rings and rectangles in other dark colours."""
    scene = Image.new("RGB", (size, size), tuple(rng.integers(0, 90, 3).tolist()))
    draw = ImageDraw.Draw(scene)
    for _ in range(rng.integers(0, 7)):
        shade = tuple(rng.integers(0, 130, 3).tolist())
        x0, y0, x1, y1 = rng.integers(0, size, 4).tolist()
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        match rng.integers(3):
            case 0:
                draw.line((x0, y0, x1, y1), fill=shade, width=int(rng.integers(1, 4)))
            case 1:
                draw.ellipse(box, outline=shade)
            case _:
                draw.rectangle(box, fill=shade)
    return scene


def _paste(scene: Image.Image, digit: NDArray[np.float64], box: tuple[int, int, int], color: tuple[int, ...]) -> None:
    x, y, side = box
    opacity = Image.fromarray((digit * 255 / 16).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    scene.paste(Image.new("RGB", (side, side), color), (x, y), opacity)


def _apart(a: tuple[int, int, int], b: tuple[int, int, int]) -> bool:
    """Whether two boxes (x, y, side) share no pixel."""
    return a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[2] <= b[1] or b[1] + b[2] <= a[1]
