"""Names of splits, and what stands in for a split that a source does not have."""

import logging
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, ReadInstruction

logger = logging.getLogger(__name__)

SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
VALIDATION_SHARE = 0.1
SALT = b"gkgnet"
CHUNK = 1000  # rows in memory at a time


def split_kind(name: str) -> str | None:
    """`train`, `validation` or `test`, if the name is or begins with a word for it.

    >>> split_kind("val2014"), split_kind("full")
    ('validation', None)
    """
    return next((kind for kind, words in SYNONYMS.items() if name.lower().startswith(words)), None)


def find_split(split: str, available: list[str]) -> str | None:
    """The split that is meant: of this name, else a synonym, else one that begins like it, as `train2014` for `train`.

    Raises:
        ValueError: if several splits begin like it.

    >>> find_split("validation", ["train2014", "val2014"])
    'val2014'
    """
    words = next((words for words in SYNONYMS.values() if split in words), (split,))
    for name in (split, *words):
        if name in available:
            return name
    matches = [name for name in available if name.lower().startswith(words)]
    if len(matches) > 1:
        raise ValueError(f"Split {split!r} can be {' or '.join(matches)}, name one")
    return matches[0] if matches else None


def choose_split(split: str | None, available: list[str], source: object) -> tuple[str, str | None]:
    """Which split to read, and which share of it: `train`, `validation`, or None for all rows.

    A source with one split, unless that is for validation or test, is divided when `train` or `validation` is asked
    for. Where there is no validation split the test split stands in. None and `all` are all rows of a source that has
    one split.

    Raises:
        ValueError: if the source has no such split, or several and none was named.

    >>> choose_split("validation", ["train", "test"], "birds"), choose_split("validation", ["train"], "birds")
    (('test', None), ('train', 'validation'))
    """
    choices = f"{source} has the splits {', '.join(available)}"
    if split is None or (split == "all" and split not in available):
        if len(available) > 1:
            raise ValueError(f"{choices}: name one")
        return available[0], None
    if len(available) == 1 and split_kind(available[0]) in ("train", None):
        if split == available[0] or split_kind(split) == "train":
            return available[0], "train"
        if split_kind(split) == "validation":
            return available[0], "validation"
    found = find_split(split, available)
    if found is None and split_kind(split) == "validation":
        found = find_split("test", available)
        if found is not None:
            logger.info("%s has no validation split: the %s split stands in for it", source, found)
    if found is None:
        raise ValueError(f"{choices}, not {split!r}")
    return found, None


def take_share(dataset: Dataset, share: str, source: object) -> Dataset:
    """The `validation` share of the rows, about a tenth, or the `train` rest; ValueError for one row.

    A hash of each row decides, not its place: an image stays in its share when others are added or taken away, so a
    model trained before has not seen the validation data of today. Hashed is the path of the image in the source's
    folder, outside of it the file name, so the source can be moved; of an image without a path the content.
    """
    if len(dataset) < 2:
        raise ValueError(f"{source} has one row, which cannot be divided into training and validation data")
    digests = b"".join(blake2b(SALT + key, digest_size=8).digest() for key in _keys(dataset, source))
    hashes = np.frombuffer(digests, dtype=">u8")
    held_out = hashes < VALIDATION_SHARE * 2**64
    if not held_out.any():
        held_out[hashes.argmin()] = True
    if held_out.all():
        held_out[hashes.argmax()] = False
    message = "%s has no validation split: about a tenth of its rows, %d, serves as one, %d for training"
    logger.info(message, source, held_out.sum(), (~held_out).sum())
    # Not train_test_split, which writes into the folder that the dataset is read from.
    return dataset.select(np.flatnonzero(held_out if share == "validation" else ~held_out))


def _keys(dataset: Dataset, source: object) -> Iterator[bytes]:
    """What tells an image from the others, for each row."""
    folder = Path(os.path.abspath(Path(str(source)).expanduser()))
    if folder.is_file():
        folder = folder.parent
    for batch in dataset.select_columns("image").with_format("arrow").iter(CHUNK):
        paths, contents = (pc.struct_field(batch["image"], name) for name in ("path", "bytes"))
        for path, content in zip(paths.to_pylist(), contents, strict=True):
            if path:
                file = Path(os.path.normpath(path))
                yield os.fsencode(file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name)
            else:
                yield content.as_py() or b""


def take_slice(dataset: Dataset, part: str) -> Dataset:
    """The rows of a slice in the syntax of datasets, as `[:100]` or `[50%:]`."""
    (rows,) = ReadInstruction.from_spec(f"rows{part}").to_absolute({"rows": len(dataset)})
    return dataset.select(range(rows.from_, rows.to))
