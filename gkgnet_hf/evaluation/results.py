"""Evaluate a model on a dataset: its metrics, and the tables that report them."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from numpy.typing import ArrayLike, NDArray
from transformers import BaseImageProcessor

from ..data.labels import label_names
from ..data.words import shown
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from ..predict import model_label_names, predict_scores
from .label_order import check_label_count
from .metrics import (
    Counts,
    Floats,
    as_floats,
    check_areas,
    multilabel_metrics,
    per_label_metrics,
    random_baseline_map,
    size_metrics,
)
from .thresholds import UNFITTED, fit_thresholds

NUM_WORST = 5
MOST_NAMES = 20  # that a line of the table lists


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found on N images with L labels. All metrics are in percent; NaN is where nothing is defined.

    Attributes:
        metrics: `multilabel_metrics` at a threshold of 0.5.
        fitted_metrics: the same at the configuration's `decision_threshold`, if that is another.
        size_metrics: mAP by object size, if the dataset knows `label_areas`.
        random_baseline_map: mAP of a classifier that scores at random.
        per_label: `per_label_metrics` at the configuration's `decision_threshold`.
        label_names: in the order of the scores.
        scores: (N, L) probabilities.
        targets: (N, L); 1, 0, and −1 or NaN for unknown.
        threshold: the decision threshold of `fitted_metrics` and `per_label`, one for all labels or one a label.

    `print` shows it as a table; `to_dict` gives what fits into a JSON file.
    """

    metrics: dict[str, float]
    fitted_metrics: dict[str, float] | None
    size_metrics: dict[str, float] | None
    random_baseline_map: float
    per_label: dict[str, Floats | Counts]
    label_names: list[str]
    scores: Floats
    targets: Floats
    threshold: float | list[float] = UNFITTED

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.scores)

    def fitted(self, per_label: bool = True) -> "Evaluation":
        """The same with the decision thresholds of highest F1 on these images (`fit_thresholds`)."""
        threshold = fit_thresholds(self.scores, self.targets, per_label)
        return replace(
            self,
            threshold=threshold,
            fitted_metrics=multilabel_metrics(self.scores, self.targets, threshold),
            per_label=per_label_metrics(self.scores, self.targets, threshold),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but scores and targets, in plain Python types; NaN becomes None, `per_label` a row a label."""
        rows = zip(*(values.tolist() for values in self.per_label.values()), strict=True)
        return _without_nan(
            {
                "num_images": self.num_images,
                "metrics": self.metrics,
                "fitted_metrics": self.fitted_metrics,
                "threshold": self.threshold,
                "size_metrics": self.size_metrics,
                "random_baseline_mAP": self.random_baseline_map,
                "per_label": [
                    {"label": name, **dict(zip(self.per_label, row, strict=True))}
                    for name, row in zip(self.label_names, rows, strict=True)
                ],
            }
        )

    def __str__(self) -> str:
        lines = [
            f"mAP {self.metrics['mAP']:.1f} (random baseline {self.random_baseline_map:.1f}) on {self.num_images:,} "
            f"images, {len(self.label_names):,} labels"
        ]
        if self.size_metrics:
            sizes = (
                f"{name.removeprefix('mAP_')} {'none' if math.isnan(value) else f'{value:.1f}'}"
                for name, value in self.size_metrics.items()
            )
            lines.append(f"mAP by object size: {', '.join(sizes)}")
        lines += ["", *self._decision_table()]
        names = [shown(name) for name in self.label_names]
        if missing := [n for n, count in zip(names, self.per_label["positives"], strict=True) if not count]:
            more = f" and {len(missing) - MOST_NAMES:,} more" if len(missing) > MOST_NAMES else ""
            listed = ", ".join(missing[:MOST_NAMES]) + more
            lines += ["", f"Labels without a positive, left out of the means: {listed}"]
        if len(names) > 2 * NUM_WORST:
            precision = self.per_label["AP"]
            worst = [i for i in np.argsort(precision)[:NUM_WORST] if not np.isnan(precision[i])]
            lines += ["", f"Lowest AP: {', '.join(f'{names[i]} {precision[i]:.1f}' for i in worst)}"]
        return "\n".join(lines)

    def _decision_table(self) -> list[str]:
        columns = {"all": (self.metrics, ""), "top 3": (self.metrics, "_top3")}
        if self.fitted_metrics:
            columns |= {"fitted": (self.fitted_metrics, ""), "fitted top 3": (self.fitted_metrics, "_top3")}
        table = [" " * 12 + "".join(f"{name:>14}" for name in columns)]
        for name in ("CP", "CR", "CF1", "OP", "OR", "OF1"):
            values = (metrics[name + suffix] for metrics, suffix in columns.values())
            table.append(f"{name:>12}" + "".join(f"{value:14.1f}" for value in values))
        return table


def evaluate(
    model: GKGNetForImageClassification,
    processor: BaseImageProcessor,
    dataset: Dataset,
    batch_size: int = 16,
    num_workers: int = 0,
) -> Evaluation:
    """Score a dataset and compare with its labels.

    Args:
        model, processor, batch_size, num_workers: as in `predict_scores`.
        dataset: with `image`, `labels` and `label_ids` as the loaders of this package make it, of the model's labels
            in the model's order; with `label_areas` the mAP comes by object size too.

    Raises:
        ValueError: if the dataset's labels are not the model's, or a positive label has no area; as in
            `predict_scores` and `multilabel_metrics`.
        TypeError: for a streaming dataset.

    Example:

        evaluation = evaluate(model, processor, validation)
        print(evaluation)
        model.config.decision_threshold = evaluation.fitted().threshold
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"evaluate reads a datasets.Dataset, got {type(dataset).__name__}")
    names = model_label_names(model)
    check_label_count(model, dataset)
    _check_names(label_names(dataset), names)
    targets, areas = _column(dataset, "labels"), label_areas(dataset)
    random_baseline_map(targets)  # an error of the labels comes before the long work
    scores = predict_scores(model, processor, dataset, batch_size, num_workers)
    return evaluate_scores(scores, targets, names, model.config.decision_threshold, areas)


def evaluate_scores(
    scores: ArrayLike,
    targets: ArrayLike,
    label_names: list[str],
    threshold: float | list[float] = UNFITTED,
    areas: ArrayLike | None = None,
) -> Evaluation:
    """Compare scores with labels.

    Args:
        scores, targets, areas: (N, L) as in `multilabel_metrics` and `size_metrics`.
        label_names: L names.
        threshold: the model's `decision_threshold`.

    Raises:
        ValueError: as in `multilabel_metrics` and `size_metrics`.

    >>> scores, targets = np.array([[0.9, 0.2], [0.1, 0.8]]), np.array([[1, 0], [0, 1]])
    >>> evaluate_scores(scores, targets, ["cat", "dog"]).metrics["mAP"]
    100.0
    """
    scores, targets, thresholds = as_floats(scores), as_floats(targets), np.asarray(threshold)
    return Evaluation(
        metrics=multilabel_metrics(scores, targets),
        fitted_metrics=multilabel_metrics(scores, targets, thresholds) if (thresholds != UNFITTED).any() else None,
        size_metrics=size_metrics(scores, targets, areas) if areas is not None else None,
        random_baseline_map=random_baseline_map(targets),
        per_label=per_label_metrics(scores, targets, thresholds),
        label_names=label_names,
        scores=scores,
        targets=targets,
        threshold=thresholds.tolist(),
    )


def label_areas(dataset: Dataset | IterableDataset) -> NDArray[np.float32] | None:
    """The column `label_areas`, (N, L) in pixels²; None for a dataset that has none or is streamed.

    Raises:
        ValueError: if a positive label has no area.
    """
    if not isinstance(dataset, Dataset) or "label_areas" not in dataset.column_names:
        return None
    areas = _column(dataset, "label_areas")
    check_areas(areas, _column(dataset, "labels") == 1)
    return areas


def _check_names(names: list[str], model_names: list[str]) -> None:
    for label, (name, model_name) in enumerate(zip(names, model_names, strict=True)):
        if name != model_name:
            raise ValueError(
                f"The dataset must have the model's labels in the model's order: label {label} of the dataset is "
                f"{name!r}, of the model {model_name!r}"
            )


def _column(dataset: Dataset, name: str) -> NDArray[np.float32]:
    return dataset.with_format("numpy", columns=[name], dtype=np.float32)[name][:]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
