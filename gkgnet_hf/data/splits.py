"""Names of splits, and the share that is held out where a source has no validation split."""

import os
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, ReadInstruction
from numpy.typing import NDArray
from scipy import sparse

from .labels import POSITIVE, stored_labels
from .stratify import stratified_holdout

SYNONYMS = {
    "train": ("train", "training", "trainval"),
    "validation": ("validation", "val", "valid", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "holdout", "heldout"),
}
VALIDATION_SHARE = 0.1


def split_kind(name: str) -> str | None:
    """`train`, `validation` or `test`, if one of the words in the name says so, and no other says something else.

    >>> split_kind("val2014"), split_kind("train_labels"), split_kind("Train-jpg"), split_kind("trains")
    ('validation', 'train', 'train', None)
    """
    words = set(re.split(r"[\W\d_]+", re.sub(r"(held|hold)[\W_]+out", r"\1out", name.lower())))
    kinds = [kind for kind, synonyms in SYNONYMS.items() if words & set(synonyms)]
    return kinds[0] if len(kinds) == 1 else None


def split_order(name: str) -> tuple[int, str]:
    """Where a split stands among others: training, validation, test, then those of other names."""
    return [*SYNONYMS, None].index(split_kind(name)), name


def find_split(split: str, available: Sequence[str]) -> str | None:
    """The split that is meant: of this name, else a synonym, else one of its kind, as `train2014` for `train`.

    Raises:
        ValueError: if several splits are of its kind.

    >>> find_split("validation", ["train2014", "val2014"])
    'val2014'
    """
    words = next((words for words in SYNONYMS.values() if split in words), (split,))
    for name in (split, *words):
        if name in available:
            return name
    kind = next((kind for kind, words in SYNONYMS.items() if split in words), None)
    matches = [name for name in available if kind and split_kind(name) == kind]
    if len(matches) > 1:
        raise ValueError(f"Split {split!r} can be {' or '.join(matches)}, name one")
    return matches[0] if matches else None


def choose_split(split: str | None, available: Sequence[str], source: object) -> tuple[str, str | None]:
    """Which split of a source is to be read, and which share of it, `train` or `validation`; None for all of it.

    A source without a validation split gives a tenth of its training images. Its test split stays what it is.

    Raises:
        ValueError: if the source has no such split, or several and none is named.

    >>> choose_split("val", ["train2014", "val2014"], "coco"), choose_split("train", ["train", "test"], "birds")
    (('val2014', None), ('train', 'train'))
    """
    choices = f"{source} has the splits {', '.join(available)}"
    if split is None or (split == "all" and split not in available):
        if len(available) > 1:
            raise ValueError(f"{choices}: name one")
        return available[0], None
    if split in available and split not in SYNONYMS["train"]:
        return split, None
    kind = next((kind for kind, words in SYNONYMS.items() if split in words), None)
    if kind in ("train", "validation") and find_split("validation", available) is None:
        train = find_split("train", available)
        if train is None and len(available) == 1 and split_kind(available[0]) is None:
            train = available[0]
        if train is not None:
            return train, kind
    found = find_split(split, available)
    if found is None:
        raise ValueError(f"{choices}, not {split!r}")
    return found, None


def held_out(dataset: Dataset, folder: str | os.PathLike[str], seed: int = 0) -> NDArray[np.bool_]:
    """(N,) which rows are the validation share, about a tenth, with every label about as frequent as in the others.

    The same images with the same labels are always held out, wherever the folder is: an image is known by its path in
    the folder, or by its content where images have no paths of their own.

    Raises:
        ValueError: for fewer than two images.
    """
    if len(dataset) < 2:
        raise ValueError(f"{folder} has one row, which cannot be divided into training and validation data")
    labels = stored_labels(dataset)
    positive = labels.values == POSITIVE
    cells = (np.ones(int(positive.sum()), dtype=np.int8), (labels.rows[positive], labels.ids[positive]))
    matrix = sparse.csr_array(cells, shape=(labels.num_rows, len(labels.names)))
    return stratified_holdout(matrix, image_keys(dataset, folder), VALIDATION_SHARE, seed)


def image_keys(dataset: Dataset, folder: str | os.PathLike[str]) -> list[str]:
    """What tells each image from the others: its path in the folder, or a hash of its content where paths repeat."""
    root = Path(os.path.abspath(folder))
    root = root.parent if root.is_file() else root
    images = dataset.select_columns("image").with_format("arrow")[:]["image"]
    paths = pc.struct_field(images, "path").to_pylist()
    embedded = pc.is_valid(pc.struct_field(images, "bytes")).to_pylist()
    keys = []
    repeats = len(set(paths)) < len(paths)
    for row, path in enumerate(paths):
        if path and not (repeats and embedded[row]):
            file = Path(os.path.normpath(path))
            keys.append(file.relative_to(root).as_posix() if file.is_relative_to(root) else str(path))
        else:
            content = images[row]["bytes"].as_py() or b""
            keys.append(blake2b(content, digest_size=16).hexdigest())
    return keys


def take_slice(dataset: Dataset, part: str) -> Dataset:
    """The rows of a slice in the syntax of datasets, as `[:100]` or `[50%:]`."""
    (rows,) = ReadInstruction.from_spec(f"rows{part}").to_absolute({"rows": len(dataset)})
    return dataset.select(range(rows.from_, rows.to))
