"""Reading label columns into one array, once it is known how they are written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .labels import Labels, unknown_label

ANSWERS: dict[Any, int] = {None: -1, "": -1}
for _answer in (1, 0, -1):
    ANSWERS |= {_answer: _answer, f"{_answer}": _answer, f"{_answer}.0": _answer}

Items = tuple[list, list[float | None] | None]  # labels of one row, and the areas of objects


@dataclass(frozen=True)
class VectorReader:
    """Labels written as answers, 1, 0, −1 or empty: a multi-hot column, a second one for areas, or a column per label.

    `declared` says that the names are the data's own, neither the caller's nor counted.
    """

    columns: list[str]
    names: list[str]
    declared: bool
    column_per_label: bool = False
    objects: bool = False

    def read(self, batch: dict[str, list]) -> Labels:
        """The labels of a batch of rows."""
        rows = batch[self.columns[0]]
        if self.column_per_label:
            rows = list(zip(*(batch[column] for column in self.columns), strict=True))
        targets = np.full((len(rows), len(self.names)), -1, dtype=np.float32)
        problems: dict[int, str] = {}
        for row, values in enumerate(rows):
            if values is None:
                continue
            answers = [ANSWERS.get(None if value != value else value) for value in values]
            if len(values) != len(self.names):
                problems[row] = f"there are {len(values)} label values, expected {len(self.names)}"
            elif None in answers:
                label = answers.index(None)
                problems[row] = f"label {self.names[label]!r} is {values[label]!r}, expected 0, 1, -1 or empty"
            else:
                targets[row] = answers
        has_areas = len(self.columns) > 1 and not self.column_per_label
        areas = np.array(batch[self.columns[1]], dtype=np.float32) if has_areas else None
        return Labels(self.names, targets, areas, problems)


@dataclass(frozen=True)
class SetReader:
    """Labels written as those that are there, by name or id; `items` takes them out of a value.

    `objects`: they are detections, so a label may be there several times, and an image without any is ordinary.
    """

    columns: list[str]
    names: list[str]
    declared: bool
    items: Callable[[Any], Items]
    objects: bool = False

    def read(self, batch: dict[str, list]) -> Labels:
        """The labels of a batch of rows."""
        id_of: dict[Any, int] = {name: i for i, name in enumerate(self.names)} | {i: i for i in range(len(self.names))}
        rows, ids, areas = [], [], []
        problems: dict[int, str] = {}
        values = batch[self.columns[0]]
        for row, value in enumerate(values):
            items, sizes = self.items(value)
            if sizes is None or len(sizes) != len(items):
                sizes = [None] * len(items)
            for item, size in zip(items, sizes, strict=True):
                if item in id_of:
                    rows.append(row)
                    ids.append(id_of[item])
                    areas.append(size)
                else:
                    problems.setdefault(row, unknown_label(item, self.names))
            if not self.objects and len(set(items)) < len(items):
                twice = next(item for item in items if items.count(item) > 1)
                problems.setdefault(row, f"label {twice!r} stands there twice")
        labels = Labels.from_pairs(len(values), self.names, rows, ids, areas if self.objects else None)
        labels.problems = problems
        return labels


LabelReader = VectorReader | SetReader


def list_items(value: list | None) -> Items:
    """Of a list of names or ids."""
    return value or [], None


def one_item(value: float | None) -> Items:
    """Of one id; none if it is empty or −1, as datasets writes a hidden label."""
    return ([] if value is None or value != value or value == -1 else [value]), None


def separated_items(separator: str | None, value: str | None) -> Items:
    """Of names in one string."""
    names = (value or "").split(separator) if separator else [value or ""]
    return [name.strip() for name in names if name.strip()], None


def object_items(key: str, size: str | None, value: dict[str, list] | list[dict] | None) -> Items:
    """Of detections, a struct of lists or a list of structs; `size` is `area`, or `bbox` as (x, y, width, height)."""
    if isinstance(value, list):
        value = {name: [item[name] for item in value] for name in (key, size) if name}
    items = (value or {}).get(key) or []
    sizes = (value or {}).get(size or "")
    if sizes is not None and size == "bbox":
        sizes = [box[2] * box[3] if box and len(box) == 4 else None for box in sizes]
    return items, sizes
