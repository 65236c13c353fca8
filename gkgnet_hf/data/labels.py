"""What is known about the labels of many images: stored sparse, read dense."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, IterableDataset, List
from datasets.features.features import register_feature
from numpy.typing import ArrayLike, NDArray

from .pictures import PictureFeature

Unlabeled = Literal["keep", "drop", "bad"]
POSITIVE, NEGATIVE, UNKNOWN = 1, 0, -1
NOTHING_SAID = "it has no label (--keep-unlabeled keeps such images)"


@dataclass
class SparseVector:
    """Feature of a dataset: a vector of float32 that is stored as a few (id, value) pairs, and read as an array.

    Args:
        length: of the vector.
        rest: every value that is not stored.

    >>> feature = SparseVector(length=4, rest=-1)
    >>> feature.decode_example({"ids": [2], "values": [1]}).tolist()
    [-1.0, -1.0, 1.0, -1.0]
    """

    length: int
    rest: float = 0.0
    id: str | None = field(default=None, repr=False)
    dtype: ClassVar[str] = "list"
    pa_type: ClassVar[Any] = pa.struct({"ids": pa.list_(pa.int32()), "values": pa.list_(pa.float32())})
    _type: str = field(default="SparseVector", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        return self.pa_type

    def encode_example(self, value: Mapping[str, Any] | ArrayLike) -> Mapping[str, Any]:
        """What is stored of a vector."""
        if isinstance(value, Mapping):
            return value
        dense = np.asarray(value, dtype=np.float32)
        (ids,) = np.nonzero(dense != self.rest)
        return {"ids": ids, "values": dense[ids]}

    def decode_example(self, value: Mapping[str, Any], token_per_repo_id: object = None) -> NDArray[np.float32]:
        """The vector, (length,) float32."""
        dense = np.full(self.length, self.rest, dtype=np.float32)
        dense[np.asarray(value["ids"], dtype=np.int64)] = value["values"]
        return dense

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """Dense lists become sparse; what is sparse stays."""
        if pa.types.is_struct(storage.type):
            return storage.cast(self.pa_type)
        rows = [None if row is None else self.encode_example(row) for row in storage.to_pylist()]
        return pa.array(rows, self.pa_type)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # the function has been called experimental since 2021
    register_feature(SparseVector, "SparseVector")


def multilabel_features(
    names: Sequence[str], areas: bool = False, extras: Mapping[str, Any] | None = None, rest: int = NEGATIVE
) -> Features:
    """The features of a multi-label dataset.

    Args:
        names: the L label names.
        areas: whether there is a column `label_areas`.
        extras: features of further columns.
        rest: what a label is that is not stored: negative (0) or unknown (−1). It only decides how much is stored.

    Returns:
        `image` (decoded when read), `labels` ((L,) float32 when read; 1 positive, 0 negative, −1 unknown; stored as
        `SparseVector`), `label_ids` (the positive labels, ascending, a list of ClassLabel with the names), with areas
        `label_areas` ((L,) float32; for each positive label the area in pixels² of its largest object, else 0), and
        the extras.

    Raises:
        ValueError: if there are no names, or one stands there twice.

    >>> multilabel_features(["cat", "dog"])["label_ids"].feature.names
    ['cat', 'dog']
    """
    names = list(names)
    if not names:
        raise ValueError("There must be at least one label name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Label names must differ, {twice!r} stands there twice")
    shape = {
        "image": PictureFeature(),
        "labels": SparseVector(len(names), float(rest)),
        "label_ids": List(ClassLabel(names=names)),
    }
    return Features(shape | ({"label_areas": SparseVector(len(names))} if areas else {}) | dict(extras or {}))


def label_names(dataset: Dataset | IterableDataset) -> list[str]:
    """The label names of a multi-label dataset, in the order of its `labels`.

    Raises:
        ValueError: if the dataset has not the shape of `multilabel_features`.

    >>> features = Features({"label_ids": List(ClassLabel(names=["cat", "dog"]))})
    >>> label_names(Dataset.from_dict({"label_ids": [[0], [0, 1]]}, features))
    ['cat', 'dog']
    """
    feature = getattr((dataset.features or {}).get("label_ids"), "feature", None)
    if not isinstance(feature, ClassLabel):
        raise ValueError(
            f"The dataset must have a column label_ids of ClassLabel (to_multilabel makes it), it has "
            f"{list(dataset.features or [])}"
        )
    return list(feature.names)


@dataclass
class Labels:
    """The labels of N images, as those cells of the (N, L) table that differ from the rest.

    Args:
        names: the L label names.
        num_rows: N.
        rows, ids: (C,) int64, ascending by row, then by label id; no cell twice.
        values: (C,) int8; 1 positive, 0 negative, −1 unknown.
        rest: what every other cell is, 0 or −1.
        areas: (C,) float32 or None; of a positive cell the area of its largest object in pixels².
        silent: (N,) bool; rows about which the source says nothing.
        problems: row → what is wrong with its labels.

    >>> labels = Labels.from_cells(2, ["cat", "dog"], rows=[0, 0], ids=[1, 0])
    >>> labels.dense().tolist(), labels.silent.tolist()
    ([[1.0, 1.0], [0.0, 0.0]], [False, True])
    """

    names: list[str]
    num_rows: int
    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    values: NDArray[np.int8]
    rest: int = NEGATIVE
    areas: NDArray[np.float32] | None = None
    silent: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    problems: dict[int, str] = field(default_factory=dict)

    @classmethod
    def from_cells(
        cls,
        num_rows: int,
        names: Sequence[str],
        rows: ArrayLike,
        ids: ArrayLike,
        values: ArrayLike = POSITIVE,
        *,
        rest: int = NEGATIVE,
        areas: Sequence[float | None] | NDArray[np.floating] | None = None,
        silent: NDArray[np.bool_] | None = None,
        problems: dict[int, str] | None = None,
    ) -> "Labels":
        """Labels from one entry per answer or object, in any order.

        Where one cell is named several times its largest value counts, and its largest area. An area of 0 counts as
        one pixel; without the area of every positive (None or NaN) there are no areas. Rows without an entry are
        silent, unless `silent` says otherwise.
        """
        rows, ids = np.asarray(rows, dtype=np.int64), np.asarray(ids, dtype=np.int64)
        for what, found, count in (("image", rows, num_rows), ("label id", ids, len(names))):
            if (outside := (found < 0) | (found >= count)).any():
                raise ValueError(f"{what} {found[outside][0]} is named, and there are {count}, counted from 0")
        values = np.broadcast_to(np.asarray(values, dtype=np.int8), rows.shape)
        sizes = None
        if areas is not None:
            sizes = np.broadcast_to(np.asarray(areas, dtype=np.float32), rows.shape)
            sizes = None if np.isnan(sizes[values == POSITIVE]).any() else np.where(sizes > 0, sizes, 1)
        if silent is None:
            silent = np.bincount(rows, minlength=num_rows) == 0
        cells = rows * max(len(names), 1) + ids
        order = np.lexsort((values, cells) if sizes is None else (sizes, values, cells))
        cells = cells[order]
        last = np.ones(len(cells), dtype=bool)
        last[:-1] = cells[1:] != cells[:-1]
        order = order[last & (values[order] != rest)]
        return cls(
            list(names),
            num_rows,
            rows[order],
            ids[order],
            values[order],
            rest,
            None if sizes is None else np.where(values[order] == POSITIVE, sizes[order], 0).astype(np.float32),
            silent,
            dict(problems or {}),
        )

    def dense(self) -> NDArray[np.float32]:
        """(N, L) float32."""
        targets = np.full((self.num_rows, len(self.names)), self.rest, dtype=np.float32)
        targets[self.rows, self.ids] = self.values
        return targets

    def count(self, value: int) -> NDArray[np.int64]:
        """(L,) in how many rows each label has this value."""
        counts = np.bincount(self.ids[self.values == value], minlength=len(self.names))
        if value == self.rest:
            counts = self.num_rows - np.bincount(self.ids, minlength=len(self.names)) + counts
        return counts

    def take(self, rows: NDArray[np.integer]) -> "Labels":
        """These rows, in this order; one may be named several times."""
        counts = np.bincount(self.rows, minlength=self.num_rows)
        starts = np.cumsum(counts) - counts
        new = counts[rows]
        ends = np.cumsum(new)
        cells = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts[rows] - (ends - new), new)
        problems = {}
        if self.problems:
            problems = {i: self.problems[row] for i, row in enumerate(rows.tolist()) if row in self.problems}
        return Labels(
            self.names,
            len(rows),
            np.repeat(np.arange(len(rows)), new),
            self.ids[cells],
            self.values[cells],
            self.rest,
            None if self.areas is None else self.areas[cells],
            self.silent[rows],
            problems,
        )

    def select(self, keep: NDArray[np.bool_]) -> "Labels":
        """The rows where `keep` (N,) is true."""
        return self if keep.all() else self.take(np.flatnonzero(keep))

    def group(self, group_of: NDArray[np.int64], num_groups: int) -> "Labels":
        """Rows of one image as one row: what any of them says; `group_of` (N,) is the new row of each.

        Of a cell that one row calls positive and another negative the positive counts.
        """
        silent = np.ones(num_groups, dtype=bool)
        np.logical_and.at(silent, group_of, self.silent)
        problems = {int(group_of[row]): problem for row, problem in self.problems.items()}
        return Labels.from_cells(
            num_groups,
            self.names,
            group_of[self.rows],
            self.ids,
            self.values,
            rest=self.rest,
            areas=self.areas,
            silent=silent,
            problems=problems,
        )

    def arrange(self, names: Sequence[str], missing: int = UNKNOWN) -> "Labels":
        """The same in another order of names.

        Args:
            names: the names wanted. A row with a positive label that they lack has a problem.
            missing: what a wanted label is in every row if these labels do not have it.
        """
        names = list(names)
        if names == self.names:
            return self
        position = {name: i for i, name in enumerate(names)}
        place = np.array([position.get(name, -1) for name in self.names], dtype=np.int64)
        kept = place[self.ids] >= 0 if len(place) else np.zeros(0, dtype=bool)
        lost = ~kept & (self.values == POSITIVE)
        problems = dict(self.problems)
        for row, label in zip(self.rows[lost].tolist(), self.ids[lost].tolist(), strict=True):
            problems.setdefault(row, unknown_label(self.names[label], names))
        new = [i for name, i in position.items() if name not in set(self.names)] if missing != self.rest else []
        every = np.repeat(np.arange(self.num_rows), len(new))
        return Labels.from_cells(
            self.num_rows,
            names,
            np.concatenate([self.rows[kept], every]),
            np.concatenate([place[self.ids[kept]], np.tile(np.array(new, dtype=np.int64), self.num_rows)]),
            np.concatenate([self.values[kept], np.full(len(every), missing, dtype=np.int8)]),
            rest=self.rest,
            areas=None if self.areas is None else np.concatenate([self.areas[kept], np.zeros(len(every))]),
            silent=self.silent,
            problems=problems,
        )

    def without(self, none: str) -> "Labels":
        """The same without a label that says "none of them": where it is positive, what is unknown is negative.

        Raises:
            ValueError: if there is no such label.

        >>> Labels.from_cells(2, ["none", "cat"], [0, 1], [0, 1], rest=UNKNOWN).without("none").dense().tolist()
        [[0.0], [1.0]]
        """
        if none not in self.names:
            raise ValueError(f"--none-label {none}: there is no such label among {', '.join(self.names[:10])}")
        place = self.names.index(none)
        names = [name for name in self.names if name != none]
        of_none = self.ids == place
        empty = self.rows[of_none & (self.values == POSITIVE)]
        every = np.repeat(empty, len(names))
        return Labels.from_cells(
            self.num_rows,
            names,
            np.concatenate([self.rows[~of_none], every]),
            np.concatenate(
                [self.ids[~of_none] - (self.ids[~of_none] > place), np.tile(np.arange(len(names)), len(empty))]
            ),
            np.concatenate([self.values[~of_none], np.zeros(len(every), dtype=np.int8)]),
            rest=self.rest,
            areas=None if self.areas is None else np.concatenate([self.areas[~of_none], np.zeros(len(every))]),
            silent=self.silent,
            problems=self.problems,
        )

    def settle(self, unlabeled: Unlabeled) -> tuple["Labels", NDArray[np.bool_]]:
        """Decide what becomes of the rows about which the source says nothing: keep, drop, or count them as bad.

        Returns:
            The labels, and (N,) whether a row stays, its problems aside.
        """
        silent = self.silent.copy()
        silent[list(self.problems)] = False
        if unlabeled == "bad":
            bad = dict.fromkeys(np.flatnonzero(silent).tolist(), NOTHING_SAID)
            return replace(self, problems=self.problems | bad), np.ones(self.num_rows, dtype=bool)
        return self, ~silent if unlabeled == "drop" else np.ones(self.num_rows, dtype=bool)

    def sparser(self) -> "Labels":
        """The same cells, stored as negative rest or unknown rest, whichever takes fewer entries."""
        other = UNKNOWN if self.rest == NEGATIVE else NEGATIVE
        counts = {value: int(self.count(value).sum()) for value in (self.rest, other)}
        if counts[self.rest] >= counts[other]:
            return self
        stored = np.zeros((self.num_rows, len(self.names)), dtype=bool)
        stored[self.rows, self.ids] = True
        rows, ids = np.nonzero(~stored)
        kept = self.values != other
        return Labels.from_cells(
            self.num_rows,
            self.names,
            np.concatenate([self.rows[kept], rows]),
            np.concatenate([self.ids[kept], ids]),
            np.concatenate([self.values[kept], np.full(len(rows), self.rest, dtype=np.int8)]),
            rest=other,
            areas=None if self.areas is None else np.concatenate([self.areas[kept], np.zeros(len(rows))]),
            silent=self.silent,
            problems=self.problems,
        )

    def to_arrow(self) -> dict[str, pa.Array]:
        """Columns `labels`, `label_ids` and, if known, `label_areas`, as `multilabel_features` types them."""
        positive = self.values == POSITIVE
        columns = {
            "labels": self._vectors(np.ones(len(self.rows), dtype=bool), self.values),
            "label_ids": pa.ListArray.from_arrays(self._ends(positive), pa.array(self.ids[positive], pa.int64())),
        }
        if self.areas is not None:
            columns["label_areas"] = self._vectors(positive, self.areas)
        return columns

    def _vectors(self, kept: NDArray[np.bool_], values: NDArray) -> pa.Array:
        ends = self._ends(kept)
        ids = pa.ListArray.from_arrays(ends, pa.array(self.ids[kept], pa.int32()))
        floats = pa.ListArray.from_arrays(ends, pa.array(values[kept].astype(np.float32)))
        return pa.StructArray.from_arrays([ids, floats], fields=list(SparseVector.pa_type))

    def _ends(self, kept: NDArray[np.bool_]) -> pa.Array:
        counts = np.bincount(self.rows[kept], minlength=self.num_rows)
        return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


def is_multilabel(features: Features | None) -> bool:
    """Whether these are the features of a multi-label dataset already."""
    ids = getattr((features or {}).get("label_ids"), "feature", None)
    return isinstance(ids, ClassLabel) and getattr((features or {}).get("labels"), "length", -1) == len(ids.names)


def stored_labels(dataset: Dataset) -> Labels:
    """The labels of a multi-label dataset as they are stored, without making a dense vector of any row.

    Args:
        dataset: of `multilabel_features`, or with dense `labels` of 1, 0 and −1 or NaN.
    """
    names = label_names(dataset)
    rows, ids, values, rest = _stored(dataset, "labels", len(names))
    labels = Labels.from_cells(len(dataset), names, rows, ids, values.astype(np.int8), rest=rest)
    if "label_areas" in dataset.column_names:
        dense_areas = _stored(dataset, "label_areas", len(names))
        sizes = dict(zip(zip(*dense_areas[:2], strict=True), dense_areas[2].tolist(), strict=True))
        cells = zip(labels.rows.tolist(), labels.ids.tolist(), strict=True)
        labels.areas = np.array([sizes.get(cell, 0) for cell in cells], dtype=np.float32)
    return labels


def _stored(dataset: Dataset, name: str, length: int) -> tuple[NDArray, NDArray, NDArray[np.float32], int]:
    """Row, label id and value of each stored cell of a column of vectors, and the rest."""
    feature = dataset.features[name]
    chunks = dataset.select_columns(name).with_format("arrow")[:][name]
    column = pa.concat_arrays(chunks.chunks) if isinstance(chunks, pa.ChunkedArray) and chunks.num_chunks else chunks
    if isinstance(feature, SparseVector):
        ids, values = pc.struct_field(column, "ids"), pc.struct_field(column, "values")
        counts = pc.list_value_length(ids).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(column)), counts)
        return rows, ids.flatten().to_numpy(), values.flatten().to_numpy(), int(feature.rest)
    dense = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), length)
    dense = np.where(np.isnan(dense), UNKNOWN, dense)
    rows, found = np.nonzero(dense != NEGATIVE)
    return rows, found, dense[rows, found], NEGATIVE


def unknown_label(label: object, names: Sequence[str]) -> str:
    """The sentence for a label that is not among the names."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"label {label!r} is not among the {len(names)} label names ({shown})"
