"""Folders of images and tables: images with a metadata table, a folder of images per label, or a table of its own."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
from datasets import Dataset, Image
from datasets.exceptions import DatasetGenerationError

from .checks import OnBadImage, image_suffixes
from .columns import attach_labels, find_image_column, to_multilabel
from .labels import Labels
from .splits import SYNONYMS, find_split

TABLES = (".csv", ".jsonl", ".parquet")
NOT_UTF8 = "it is not UTF-8 text"
DELIMITERS = ",;\t"


def load_folder(
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    separator: str | None = None,
    keep_unlabeled: bool = False,
    on_bad_image: OnBadImage = "error",
    bad_images_file: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A multi-label dataset from a folder of images or a table.

    - A table, `.csv`, `.jsonl` or `.parquet`: one row per image, with its path relative to the table's folder, and its
      labels as `to_multilabel` understands them. CSV is UTF-8 with `,`, `;` or tabs between the cells; an empty cell is
      an unknown answer or no name, and text such as "NA" or "None" is a name.
    - A folder with `metadata.csv`, `.jsonl` or `.parquet`: that table.
    - A folder with a folder of images per label. An image that has several labels stands in several folders: files
      with equal bytes are one image, whatever their names, because `001.jpg` in two folders is usually two images.

    Splits are folders `train`, `validation` (or `val`, `valid`, `dev`) and `test`, or tables of these names. Where they
    have a folder per label each of them has the labels of all: what has no folder in a split is on none of its images.

    Args:
        path: the folder or table.
        split: needed if there are splits.
        labels, image_column, label_column, separator, keep_unlabeled: as for `to_multilabel`; folders of labels are
            sorted by name.
        on_bad_image, bad_images_file: what happens to bad and missing images, see `report_bad_images`; rows are
            counted from 0, without the header.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it holds nothing of the above, or no such split; if a table cannot be read; as `to_multilabel`.

    Example:

        train, validation = load_folder("photos", "train"), load_folder("photos", "validation")
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    splits = folder_splits(path)
    folders = list(splits.values()) or [path]
    if splits or split is not None:
        found = find_split(split, list(splits)) if split is not None else None
        if found is None:
            raise ValueError(f"{path} has the splits {', '.join(splits) or 'none'}, not {split!r}")
        path = splits[found]
    table = path if path.is_file() else find_table(path)
    if table is not None:
        return to_multilabel(
            read_table(table, image_column),
            labels=labels,
            image_column=image_column,
            label_column=label_column,
            separator=separator,
            keep_unlabeled=keep_unlabeled,
            on_bad_image=on_bad_image,
            bad_images_file=bad_images_file,
        )
    names = sorted({name for folder in folders if not find_table(folder) for name in label_folders(folder)})
    if len(names) < 2:
        raise ValueError(f"{path} has neither a metadata table nor two or more folders of images")
    images = label_folders(path)
    paths, found_labels = _merge({name: images.get(name, []) for name in names})
    dataset = Dataset.from_dict({"image": paths}).cast_column("image", Image())
    return attach_labels(dataset, found_labels, labels, on_bad_image=on_bad_image, bad_images_file=bad_images_file)


def is_folder_source(path: Path) -> bool:
    """Whether `load_folder` can read a folder."""
    return bool(find_table(path) or len(label_folders(path)) > 1 or folder_splits(path))


def folder_splits(path: Path) -> dict[str, Path]:
    """The tables or folders of the splits in a folder, by their own names; none if it is not divided."""
    if path.is_file() or find_table(path):
        return {}
    words = [word for words in SYNONYMS.values() for word in words]
    tables = {word: find_table(path, word) for word in words}
    if any(tables.values()):
        return {word: table for word, table in tables.items() if table}
    labels = {word: len(label_folders(path / word)) for word in words}
    fewest = 1 if max(labels.values()) > 1 else 2  # one folder may be anything, unless another split has labels
    return {word: path / word for word in words if find_table(path / word) or labels[word] >= fewest}


def find_table(folder: Path, name: str = "metadata") -> Path | None:
    """The table of a name, whatever its suffix."""
    return next((table for suffix in TABLES if (table := folder / f"{name}{suffix}").is_file()), None)


def label_folders(folder: Path) -> dict[str, list[Path]]:
    """The image files of each folder in a folder that has any, sorted by name."""
    suffixes = image_suffixes()
    folders = {}
    for label in sorted(path for path in folder.glob("[!.]*") if path.is_dir()):
        images = [f for f in sorted(label.iterdir()) if f.suffix.lower() in suffixes and not f.name.startswith(".")]
        if images:
            folders[label.name] = images
    return folders


def read_table(path: Path, image_column: str | None = None) -> Dataset:
    """A table as a dataset, whose image paths are made absolute; they are relative to the table's folder."""
    try:
        if path.suffix == ".csv":
            dataset = Dataset(_read_csv(path))
        elif path.suffix == ".jsonl":
            dataset = Dataset(pa.json.read_json(path))
        elif path.suffix == ".parquet":
            dataset = Dataset.from_parquet(str(path))
        else:
            raise ValueError(f"expected one of {', '.join(TABLES)}")
        if not len(dataset):
            raise ValueError("it has no rows")
    except (ValueError, DatasetGenerationError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error
    column = find_image_column(dataset.features, image_column)
    if getattr(dataset.features[column], "dtype", "") not in ("string", "large_string"):
        return dataset  # the images themselves
    folder = path.parent.absolute()
    paths = [file if not file or "://" in file else os.path.join(folder, file) for file in dataset[column][:]]
    return dataset.remove_columns(column).add_column(column, paths)


def _read_csv(path: Path) -> pa.Table:
    with path.open("rb") as file:
        header = file.readline().decode(errors="replace")
    delimiter = max(DELIMITERS, key=header.count)
    if "\N{REPLACEMENT CHARACTER}" in header:
        raise ValueError(NOT_UTF8)
    table = pa.csv.read_csv(path, parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True))
    if any(map(pa.types.is_binary, table.schema.types)):
        raise ValueError(NOT_UTF8)
    columns = [column.strip() for column in table.column_names]
    if len(set(columns)) < len(columns):
        raise ValueError(f"column {next(c for c in columns if columns.count(c) > 1)!r} stands there twice")
    return table.rename_columns(columns)


def _merge(folders: dict[str, list[Path]]) -> tuple[list[str], Labels]:
    """Path and labels of each image that is different, in the order of the folders."""
    files = [(file, label) for label, images in enumerate(folders.values()) for file in images]
    sizes = [file.stat().st_size if file.is_file() else None for file, _ in files]  # a link may lead nowhere
    repeated = {size for size, count in Counter(sizes).items() if count > 1} - {None}
    row_of: dict[object, int] = {}
    paths: list[str] = []
    rows: list[int] = []
    for (file, _), size in zip(files, sizes, strict=True):
        content = (size, hashlib.sha256(file.read_bytes()).digest()) if size in repeated else file
        if content not in row_of:
            row_of[content] = len(paths)
            paths.append(str(file.absolute()))
        rows.append(row_of[content])
    return paths, Labels.from_pairs(len(paths), list(folders), rows, [label for _, label in files])
