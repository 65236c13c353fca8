"""What is known about the labels of many images, as one array with names."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Unlabeled = Literal["keep", "drop", "bad"]


@dataclass
class Labels:
    """The labels of N images.

    Args:
        names: the L label names.
        targets: (N, L) float32; 1 there, 0 not there, −1 unknown.
        areas: (N, L) float32 or None; for a label that is there the area of its largest object in pixels², else 0.
        problems: row → what is wrong with its labels.

    >>> labels = Labels.from_pairs(2, ["cat", "dog"], rows=[0, 0], ids=[1, 0])
    >>> labels.targets.tolist(), labels.blank().tolist()
    ([[1.0, 1.0], [0.0, 0.0]], [False, True])
    """

    names: list[str]
    targets: NDArray[np.float32]
    areas: NDArray[np.float32] | None = None
    problems: dict[int, str] = field(default_factory=dict)

    @classmethod
    def from_pairs(
        cls,
        num_rows: int,
        names: Sequence[str],
        rows: Sequence[int] | NDArray[np.integer],
        ids: Sequence[int] | NDArray[np.integer],
        areas: Sequence[float | None] | NDArray[np.floating] | None = None,
    ) -> "Labels":
        """Labels from one entry per object: its row, its label id and its area in pixels².

        An area of 0 counts as one pixel; without the area of every object (None or NaN) there are no areas.
        """
        at = (np.asarray(rows, dtype=np.int64), np.asarray(ids, dtype=np.int64))
        targets = np.zeros((num_rows, len(names)), dtype=np.float32)
        targets[at] = 1
        largest = None
        sizes = np.asarray(np.nan if areas is None else areas, dtype=np.float32)
        if not np.isnan(sizes).any():
            largest = np.zeros_like(targets)
            np.maximum.at(largest, at, np.where(sizes > 0, sizes, 1))
        return cls(list(names), targets, largest)

    def blank(self) -> NDArray[np.bool_]:
        """(N,) whether a row has no label: none is there and none is unknown, or all are unknown."""
        unknown = self.targets == -1
        return ~(self.targets == 1).any(1) & (~unknown.any(1) | unknown.all(1))

    def arrange(self, names: Sequence[str]) -> "Labels":
        """The same in another order of names.

        A name that these labels do not know is unknown in every row; a row with a label that `names` lacks has a
        problem.
        """
        if list(names) == self.names:
            return self
        position = {name: i for i, name in enumerate(names)}
        kept = [i for i, name in enumerate(self.names) if name in position]
        places = [position[self.names[i]] for i in kept]
        targets = np.full((len(self.targets), len(names)), -1, dtype=np.float32)
        targets[:, places] = self.targets[:, kept]
        areas = None
        if self.areas is not None:
            areas = np.zeros_like(targets)
            areas[:, places] = self.areas[:, kept]
        problems = dict(self.problems)
        for i in sorted(set(range(len(self.names))) - set(kept)):
            for row in np.flatnonzero(self.targets[:, i] == 1).tolist():
                problems.setdefault(row, unknown_label(self.names[i], names))
        return Labels(list(names), targets, areas, problems)

    def settle(self, names: Sequence[str] | None, unlabeled: Unlabeled) -> tuple["Labels", NDArray[np.bool_]]:
        """Arrange by `names`, if given, and decide what becomes of rows without a label.

        Args:
            names: the names wanted.
            unlabeled: keep such rows, drop them, or count them as bad.

        Returns:
            The labels, and (N,) whether a row stays, its problems aside.
        """
        blank = self.blank()
        blank[list(self.problems)] = False
        labels = self if names is None else self.arrange(names)
        if unlabeled == "bad":
            bad = dict.fromkeys(np.flatnonzero(blank).tolist(), "it has no label (keep_unlabeled keeps such images)")
            labels = replace(labels, problems=labels.problems | bad)
        return labels, ~blank if unlabeled == "drop" else np.ones_like(blank)

    def to_arrow(self) -> dict[str, pa.Array]:
        """Columns `labels`, `label_ids` and, if known, `label_areas`, as `multilabel_features` types them."""
        rows, ids = np.nonzero(self.targets == 1)
        ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(self.targets)))])
        columns = {
            "labels": self._fixed_size(self.targets),
            "label_ids": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(ids, pa.int64())),
        }
        if self.areas is not None:
            columns["label_areas"] = self._fixed_size(self.areas)
        return columns

    @staticmethod
    def _fixed_size(values: NDArray[np.float32]) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), values.shape[1])


def unknown_label(label: object, names: Sequence[str]) -> str:
    """The sentence for a label that is not among the names."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"label {label!r} is not among the {len(names)} label names ({shown})"
