"""Images and rows that cannot be used: found, and either an error or left out."""

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Image
from numpy.typing import NDArray

from .paths import path_problem
from .pictures import READABLE_SUFFIXES, check_pictures
from .words import counted, csv_cell, shown

logger = logging.getLogger(__name__)

OnBadImage = Literal["error", "skip"]
LONGEST = 300  # characters of a path in a message
NO_IMAGE = "there is no image"


@dataclass(frozen=True)
class BadImage:
    """A row that cannot be used: its number, counted from 0, its image file and what is wrong.

    Rows are counted in the source, or with `split` in that split as it was loaded: divided, cut and without bad rows.
    """

    row: int
    file: str
    problem: str
    split: str = ""

    def __str__(self) -> str:
        place = f"row {self.row} of the {self.split} split" if self.split else f"row {self.row}"
        file = self.file if len(self.file) <= LONGEST else f"{self.file[:LONGEST]}…"
        return shown(f"{place}, {file or 'no file'}: {self.problem}")


def report_bad_images(
    bad: Sequence[BadImage], on_bad_image: OnBadImage = "error", bad_images_file: str | os.PathLike[str] | None = None
) -> None:
    """Raise, or log and list, the rows that cannot be used; nothing happens if there are none.

    Args:
        bad: the rows.
        on_bad_image: `"error"` raises; `"skip"` logs a warning with the count and lists the rows in the file.
        bad_images_file: CSV file `split,row,file,problem` that the rows are appended to, each once.

    Raises:
        ValueError: with the count and the first five rows; or for another `on_bad_image`.

    >>> report_bad_images([BadImage(3, "a.jpg", "the file is missing")])
    Traceback (most recent call last):
    ValueError: 1 image cannot be used (--on-bad-image skip leaves such images out):
      row 3, a.jpg: the file is missing
    """
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f'on_bad_image must be "error" or "skip", got {on_bad_image!r}')
    if not bad:
        return
    count = counted(len(bad), "image")
    first = "".join(f"\n  {image}" for image in bad[:5]) + ("\n  …" if len(bad) > 5 else "")
    if on_bad_image == "error":
        raise ValueError(f"{count} cannot be used (--on-bad-image skip leaves such images out):{first}")
    logger.warning("%s left out:%s", count, first)
    if bad_images_file is not None:
        _append(bad, bad_images_file)


def _append(bad: Sequence[BadImage], path: str | os.PathLike[str]) -> None:
    with open(path, "a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        listed = {tuple(row) for row in csv.reader(file)}
        rows = [("split", "row", "file", "problem")]
        for image in bad:
            rows.append((csv_cell(image.split), str(image.row), csv_cell(image.file), csv_cell(image.problem)))
        csv.writer(file).writerows(row for row in rows if row not in listed)


def drop_bad_images(
    dataset: Dataset,
    bad: Sequence[BadImage],
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
) -> Dataset:
    """The dataset without the rows of `bad`, which are reported (`report_bad_images`); ValueError if none is left."""
    report_bad_images(bad, on_bad_image, bad_images_file)
    keep = np.ones(len(dataset), dtype=bool)
    keep[[image.row for image in bad]] = False
    return keep_rows(dataset, keep)


def keep_rows(dataset: Dataset, keep: NDArray[np.bool_]) -> Dataset:
    """The rows where `keep` (N,) is true; ValueError if there are none."""
    if not keep.any():
        raise ValueError(f"No image is left of {len(keep):,}: none has a label and can be used")
    return dataset if keep.all() else dataset.select(np.flatnonzero(keep))


def check_images(
    dataset: Dataset,
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
    split: str = "",
    num_channels: int = 3,
) -> Dataset:
    """Decode every image once, and leave out what cannot be decoded.

    Args:
        dataset: with a column `image`; rows are counted from 0 as they stand in it.
        on_bad_image, bad_images_file: as for `report_bad_images`.
        split: the split that these rows are, to be named with a bad one.
        num_channels: that the model takes, as for `open_picture`.

    Raises:
        ValueError: if an image cannot be decoded and `on_bad_image` is `"error"`, or no image is left.
        TypeError: for a streaming dataset, which is checked as it streams.

    Example:

        train = check_images(load_coco(images, annotations), on_bad_image="skip", bad_images_file="bad.csv")
    """
    return drop_bad_images(dataset, find_bad_images(dataset, split, num_channels), on_bad_image, bad_images_file)


def find_bad_images(dataset: Dataset, split: str = "", num_channels: int = 3) -> list[BadImage]:
    """Decode every image once, on all cores, keep none of them, and say which cannot be decoded.

    Args:
        dataset: with a column `image`; rows are counted from 0 as they stand in it.
        split: the split that these rows are, to be named with a bad one.
        num_channels: that the model takes, as for `open_picture`.

    Raises:
        TypeError: for a streaming dataset, which is checked as it streams.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"Images of a datasets.Dataset can be checked, got {type(dataset).__name__}")
    encoded = dataset.with_format(None).select_columns("image").cast_column("image", Image(decode=False))
    paths, problems = image_files(dataset, repeated=False)
    rows = [row for row in range(len(dataset)) if row not in problems]
    images = (encoded[row]["image"] for row in rows)
    found = check_pictures(images, num_channels, total=len(rows))
    problems |= {rows[place]: problem for place, problem in found.items()}
    return [BadImage(row, paths[row], problems[row], split) for row in sorted(problems)]


def check_files(files: Sequence[str], on_bad_image: OnBadImage = "error", num_channels: int = 3) -> list[str]:
    """Decode picture files once, and leave out what cannot be decoded; as `check_images`.

    Raises:
        ValueError: if a file cannot be decoded and `on_bad_image` is `"error"`, or none is left.
    """
    problems = check_pictures(files, num_channels)
    report_bad_images([BadImage(place, files[place], problems[place]) for place in sorted(problems)], on_bad_image)
    left = [file for place, file in enumerate(files) if place not in problems]
    if not left:
        raise ValueError(f"No image is left of {len(files):,}")
    return left


def image_files(dataset: Dataset, repeated: bool = True) -> tuple[list[str], dict[int, str]]:
    """The path of each image, empty if it has none, and for each row without an image of its own what is wrong.

    Nothing is read.

    Args:
        dataset: with a column `image`.
        repeated: whether a file that stands in a row before is wrong.
    """
    images = dataset.select_columns("image").with_format("arrow")[:]["image"]
    paths = [path or "" for path in pc.struct_field(images, "path").to_pylist()]
    problems = {}
    row_of: dict[str, int] = {}
    for row in np.flatnonzero(pc.is_null(pc.struct_field(images, "bytes"))).tolist():
        if not paths[row]:
            problems[row] = NO_IMAGE
        elif problem := path_problem(paths[row]):
            problems[row] = problem
        elif repeated and row_of.setdefault(paths[row], row) != row:
            problems[row] = f"the file stands in row {row_of[paths[row]]} already"
    return paths, problems


def image_suffixes() -> frozenset[str]:
    """The suffixes, with their dot and in lower case, of the image files that can be read."""
    return READABLE_SUFFIXES


def image_problems(images: Sequence[dict | None]) -> dict[int, str]:
    """Why images that are not decoded, dicts of `path` and `bytes`, cannot be: place → problem."""
    there = [place for place, image in enumerate(images) if image and (image["bytes"] is not None or image["path"])]
    found = check_pictures([images[place] or {} for place in there], use_cache=False)
    return dict.fromkeys(set(range(len(images))) - set(there), NO_IMAGE) | {there[i]: p for i, p in found.items()}
