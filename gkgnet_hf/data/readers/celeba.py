"""CelebA as its authors give it: list_attr_celeba.txt (or Kaggle's .csv), list_eval_partition, img_align_celeba/."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from ..annotations import Splits, divide, understand
from ..columns import PARTITIONS
from ..options import ReadOptions
from ..paths import files_in
from .tables import in_memory, read_csv

ATTRIBUTES = "list_attr_celeba"
SPLIT_FILE = "list_eval_partition"


def read_celeba(path: Path, options: ReadOptions) -> Splits | None:
    """The file `list_attr_celeba`, or the folder with it."""
    folder = path.parent if path.is_file() else path
    file = path if path.is_file() else next(iter(files_in(folder, f"{ATTRIBUTES}.*")), None)
    if file is None or file.stem != ATTRIBUTES or file.suffix not in (".txt", ".csv"):
        return None
    table = read_csv(file, options) if file.suffix == ".csv" else _read_text(file)
    dataset = in_memory(table)
    partition = next(iter(files_in(folder, f"{SPLIT_FILE}.*")), None)
    split_of = None
    if partition is not None:
        lines = partition.read_text(encoding="utf-8").replace(",", " ").splitlines()
        split_by_name = dict(line.split()[:2] for line in lines if len(line.split()) == 2)
        cells = [split_by_name.get(str(name).strip()) for name in dataset[dataset.column_names[0]][:]]
        if not set(cells) <= set(PARTITIONS):
            raise ValueError(f"{partition} does not give each image 0 (train), 1 (validation) or 2 (test)")
        split_of = np.array([PARTITIONS[str(cell)] for cell in cells])
        options.assume(f"{partition.name} divides the rows: {', '.join(sorted(set(split_of.tolist())))}")
    annotations, split_of = understand(dataset, options, folder, split_of)
    return divide(annotations, split_of)


def _read_text(file: Path) -> pa.Table:
    """The count, the names of the attributes, then a line for each image."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if len(lines) < 3 or not lines[0].strip().isdigit():
        raise ValueError(f"{file} is not as CelebA's authors give it: its first line is {lines[0] if lines else ''!r}")
    names = ["image_id", *lines[1].split()]
    rows = [line.split() for line in lines[2:] if line.strip()]
    wrong = next((row for row in rows if len(row) != len(names)), None)
    if wrong is not None:
        raise ValueError(f"{file}: the line of {wrong[0]} has {len(wrong) - 1} values, expected {len(names) - 1}")
    return pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
