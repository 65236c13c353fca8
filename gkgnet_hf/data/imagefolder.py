"""Writing any source as an imagefolder: pictures and a metadata.parquet for each split, which every tool reads."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from ..files import removed_on_error
from .checks import BadImage, drop_bad_images
from .labels import NEGATIVE, UNKNOWN, label_names, stored_labels
from .pictures import why_no_picture
from .places import HIDDEN, looks_like_picture
from .sources import MultiLabelSource


def write_imagefolder(source: MultiLabelSource, out: str | os.PathLike[str]) -> Path:
    """Write every split of a source as `<split>/metadata.parquet` with its pictures beside it.

    The columns are `file_name`, `labels` (the positive labels, a list of ClassLabel), and where answers are unknown
    `negative_labels`, the labels that are known to be absent. Picture files are copied as they are.

    Args:
        source: what to write.
        out: a new or empty folder.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder holds anything.
        ValueError: for files that are no pictures, unless the source's `on_bad_image` is `"skip"`.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} must be empty, it holds {next(folder.iterdir()).name}")
    labels = source.options.labels
    splits = {}
    for split in source.splits:
        dataset = source.load(split, labels, hold_out=False)
        bad = _no_pictures(dataset, split if len(source.splits) > 1 else "")
        dataset = drop_bad_images(dataset, bad, source.options.on_bad_image, source.options.bad_images_file)
        splits[split], labels = dataset, label_names(dataset)
    has_unknown = any(stored_labels(dataset).count(UNKNOWN).any() for dataset in splits.values())
    with removed_on_error(folder):
        for split, dataset in splits.items():
            _write_split(dataset, folder / _split_folder(split), has_unknown)
    return folder


def _no_pictures(dataset: Dataset, split: str) -> list[BadImage]:
    """The rows whose files are no pictures: a table may name any file of this machine, and nobody is to publish it."""
    rows = dataset.select_columns("image").cast_column("image", Image(decode=False))
    found = ((row, entry["image"], why_no_picture(entry["image"])) for row, entry in enumerate(rows))
    return [BadImage(row, image["path"] or "", problem, split) for row, image, problem in found if problem]


def _split_folder(split: str) -> str:
    if os.path.basename(split) != split or split in (".", ".."):
        raise ValueError(f"A split called {split!r} cannot be a folder")
    return split


def _file_name(number: int, path: str | None, content: bytes | None) -> str:
    """The name of a picture file, or a number where it has none that every file system takes."""
    name = os.path.basename(path or "")
    if looks_like_picture(name) and name.isprintable() and len(name.encode()) < 200 and not HIDDEN.search(name):
        return name
    return f"{number:06d}{_suffix(content or b'')}"


def _write_split(dataset: Dataset, folder: Path, has_unknown: bool) -> None:
    folder.mkdir()
    names = label_names(dataset)
    encoded = dataset.select_columns("image").cast_column("image", Image(decode=False))
    taken: set[str] = set()
    files = []
    for number, row in enumerate(tqdm(encoded, desc=f"Writing {folder.name}", unit="image")):
        path, content = row["image"]["path"], row["image"]["bytes"]
        name = _file_name(number, path, content)
        if name.lower() in taken:
            name = f"{number:06d}-{name}"
        taken.add(name.lower())
        if content is not None:
            (folder / name).write_bytes(content)
        else:
            shutil.copyfile(path, folder / name)
        files.append(name)
    stored = stored_labels(dataset)
    features = Features({"file_name": Value("string"), "labels": List(ClassLabel(names=names))})
    columns = {"file_name": pa.array(files), "labels": dataset.with_format("arrow")[:]["label_ids"]}
    if has_unknown:
        starts = np.searchsorted(stored.rows, np.arange(stored.num_rows + 1))
        negatives = []
        for row in range(stored.num_rows):
            cells = slice(starts[row], starts[row + 1])
            if stored.rest == NEGATIVE:
                found = np.setdiff1d(np.arange(len(names)), stored.ids[cells])
            else:
                found = stored.ids[cells][stored.values[cells] == NEGATIVE]
            negatives.append(found.tolist())
        features["negative_labels"] = List(ClassLabel(names=names))
        columns["negative_labels"] = pa.array(negatives, pa.list_(pa.int64()))
    table = pa.table(columns).cast(features.arrow_schema)
    pa.parquet.write_table(table, folder / "metadata.parquet")


def _suffix(content: bytes) -> str:
    kinds = {
        b"\xff\xd8\xff": ".jpg",
        b"\x89PNG": ".png",
        b"GIF8": ".gif",
        b"RIFF": ".webp",
        b"II*\0": ".tif",
        b"MM\0*": ".tif",
    }
    return next((suffix for start, suffix in kinds.items() if content.startswith(start)), ".png")
