"""Which labels of a picture are kept, and what they are called: thresholds, names, implications."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.options import ReadOptions
from ..data.readers.tables import read_table
from .scoring import label_thresholds

COLUMNS = ("label", "category", "threshold", "rename", "exclude", "implies")
YES = {"1", "yes", "true", "x"}
NO = {"", "0", "no", "false"}


@dataclass(frozen=True)
class LabelRules:
    """What becomes of the scores of one picture.

    A label is kept if its score reaches its threshold and it is not excluded. With `top_k` and no threshold the highest
    are kept whatever their scores. A label that is kept brings those that it implies, with its own score where that is
    higher. At last labels get their new names.

    Args:
        names: of the model's L labels.
        thresholds: (L,) lowest score of each label.
        top_k: most labels that scores alone bring; implied ones come on top.
        excluded: labels that are never kept.
        renamed: label → its name in the results.
        implied: label → labels that it brings; they need not be the model's.
        categories: label → what kind of label it is.
    """

    names: Sequence[str]
    thresholds: NDArray[np.float64]
    top_k: int | None = None
    excluded: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    implied: Mapping[str, Sequence[str]] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, scores: NDArray[np.floating]) -> list[tuple[str, float]]:
        """Scores (L,) of a picture → its labels and their scores, highest first.

        >>> rules = LabelRules(["cat", "dog"], label_thresholds(0.5, 2), implied={"dog": ["animal"]})
        >>> rules(np.array([0.1, 0.75]))
        [('dog', 0.75), ('animal', 0.75)]
        """
        kept: dict[str, float] = {}
        for row in np.argsort(-scores, kind="stable"):
            name = self.names[row]
            if len(kept) == self.top_k:
                break
            if scores[row] >= self.thresholds[row] and name not in self.excluded:
                kept[name] = float(scores[row])
        waiting = list(kept.items())[::-1]  # the highest score first, so that each label is reached once
        while waiting:
            name, score = waiting.pop()
            for other in self.implied.get(name, ()):
                if other not in self.excluded and score > kept.get(other, -np.inf):
                    kept[other] = score
                    waiting.append((other, score))  # a circle ends, since no score grows twice
        ordered = sorted(kept.items(), key=lambda item: -item[1])
        return [(self.renamed.get(name, name), score) for name, score in ordered]

    def to_dict(self) -> dict[str, object]:
        """Everything that changes a result, in plain types."""
        return {
            "threshold": self.thresholds.tolist(),
            "top_k": self.top_k,
            "exclude": sorted(self.excluded),
            "rename": dict(self.renamed),
            "implies": {name: list(others) for name, others in self.implied.items()},
        }


def read_label_rules(
    names: Sequence[str],
    decision_threshold: ArrayLike,
    table: str | os.PathLike[str] | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    exclude: Iterable[str] = (),
    rename: Mapping[str, str] | None = None,
) -> LabelRules:
    """The rules that a user gives.

    Args:
        names: of the model's L labels.
        decision_threshold: the model's own, one for all labels or one a label.
        table: a CSV file with a row a label and, where wanted, the columns `category`, `threshold`, `rename`, `exclude`
            (yes or no) and `implies` (names with `;` between them). A row with a category and no label gives the
            threshold of all labels of that category.
        threshold: of all labels that the table gives none.
        top_k: the largest number of labels; without a threshold, that many whatever their scores.
        exclude: labels that are never kept.
        rename: label → its name in the results.

    Raises:
        ValueError: for a label that the model does not have, a threshold outside [0, 1], an unknown column, a `top_k`
            below 1.

    >>> read_label_rules(["cat", "dog"], 0.5, top_k=1, rename={"cat": "Katze"})(np.array([0.2, 0.1]))
    [('Katze', 0.2)]
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    rows = _read(Path(table)) if table is not None else []
    if threshold is None and top_k is not None and not any(row["threshold"] for row in rows):
        thresholds = np.full(len(names), -np.inf)
    else:
        thresholds = label_thresholds(decision_threshold if threshold is None else threshold, len(names)).copy()
    renamed, excluded = dict(rename or {}), set(exclude)
    implied: dict[str, list[str]] = {}
    place = {name: i for i, name in enumerate(names)}
    if unknown := [name for name in (*renamed, *excluded) if name not in place]:
        raise ValueError(f"The model has no label {', '.join(unknown)}; it has {', '.join(list(place)[:20])}")
    of_category = {row["category"]: row for row in rows if row["category"] and not row["label"]}
    for row in rows:
        label = row["label"]
        if not label:
            continue
        if label not in place and not row["implies"]:
            raise ValueError(f"{table} names the label {label}, which the model does not have")
        own = row["threshold"] or of_category.get(row["category"], row)["threshold"]
        if own and label in place:
            thresholds[place[label]] = _number(own, label)
        if row["rename"]:
            renamed[label] = row["rename"]
        if _is_yes(row["exclude"], label):
            excluded.add(label)
        if others := [name.strip() for name in row["implies"].split(";") if name.strip()]:
            implied[label] = others
    categories = {row["label"]: row["category"] for row in rows if row["label"] and row["category"]}
    return LabelRules(names, thresholds, top_k, frozenset(excluded), renamed, implied, categories)


def _read(path: Path) -> list[dict[str, str]]:
    table = read_table(path, ReadOptions())
    if "label" not in table.column_names or not set(table.column_names) <= set(COLUMNS):
        found = ", ".join(table.column_names)
        raise ValueError(f"{path} must have a column label and may have {', '.join(COLUMNS[1:])}; it has {found}")
    return [{column: str(row.get(column) or "").strip() for column in COLUMNS} for row in table]


def _number(text: str, label: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not 0 <= number <= 1:
        raise ValueError(f"The threshold of {label} must be a number in [0, 1], got {text}")
    return number


def _is_yes(text: str, label: str) -> bool:
    if text.lower() not in YES | NO:
        raise ValueError(f"exclude of {label} must be yes or no, got {text}")
    return text.lower() in YES
