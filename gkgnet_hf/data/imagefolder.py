"""Writing any source as an imagefolder: pictures and a metadata.parquet for each split, which every tool reads."""

import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from tqdm.auto import tqdm

from .labels import NEGATIVE, UNKNOWN, label_names, stored_labels
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
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} must be empty, it holds {next(folder.iterdir()).name}")
    labels = source.options.labels
    splits = {}
    for split in source.splits:
        splits[split] = source.load(split, labels, hold_out=False)
        labels = label_names(splits[split])
    has_unknown = any(stored_labels(dataset).count(UNKNOWN).any() for dataset in splits.values())
    for split, dataset in splits.items():
        _write_split(dataset, folder / split, has_unknown)
    return folder


def _write_split(dataset: Dataset, folder: Path, has_unknown: bool) -> None:
    folder.mkdir()
    names = label_names(dataset)
    encoded = dataset.select_columns("image").cast_column("image", Image(decode=False))
    taken: set[str] = set()
    files = []
    for number, row in enumerate(tqdm(encoded, desc=f"Writing {folder.name}", unit="image")):
        path, content = row["image"]["path"], row["image"]["bytes"]
        name = os.path.basename(path) if path else f"{number:06d}{_suffix(content)}"
        if name.lower() in taken:
            name = f"{number:06d}-{name}"
        taken.add(name.lower())
        if content is not None:
            (folder / name).write_bytes(content)
        elif "://" in path:
            with fsspec.open(path, "rb") as opened, (folder / name).open("wb") as target:
                shutil.copyfileobj(opened, target)
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
