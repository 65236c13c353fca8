"""Which output of a network stands for which label, where a file does not say."""

from dataclasses import dataclass
from math import isnan

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from transformers import BaseImageProcessor

from ..data.labels import label_names
from ..data.words import shown
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from ..predict import predict_scores
from .metrics import average_precision, check_arrays

# Of orders with the same mAP the one that moves fewest labels wins; an AP differs by more than this or not at all.
STAYING = 1e-9


@dataclass(frozen=True)
class LabelOrder:
    """The order of L labels in which a network's outputs fit a dataset best.

    Attributes:
        order: (L,) for each output the dataset's label that it fits.
        given_ap: (L,) AP in percent of each output as the label in its place; NaN for a label without positives.
        best_ap: (L,) AP in percent of each output as the label that it fits.
    """

    order: list[int]
    given_ap: list[float]
    best_ap: list[float]

    @property
    def given_map(self) -> float:
        """mAP in percent of the order given."""
        return float(np.nanmean(self.given_ap))

    @property
    def best_map(self) -> float:
        """mAP in percent of the best order."""
        return float(np.nanmean(self.best_ap))

    def describe(self, names: list[str]) -> str:
        """A sentence that compares the two orders and says how many labels speak, and a line for each that would move.

        Args:
            names: of the dataset's L labels, in its order.
        """
        moved = [output for output, label in enumerate(self.order) if label != output]
        with_images = f"{np.isfinite(self.given_ap).sum()} of {len(self.order)} labels have positive images"
        if not moved:
            return f"No other order of the labels fits better: mAP {self.given_map:.1f} ({with_images})"
        lines = [
            f"mAP {self.given_map:.1f} in the order of the labels given, {self.best_map:.1f} in the order that fits "
            f"best, where {len(moved)} labels move ({with_images}):"
        ]
        for i in moved:
            before, after = ("none" if isnan(ap) else f"{ap:.1f}" for ap in (self.given_ap[i], self.best_ap[i]))
            lines.append(shown(f"  output {i}: {names[i]} (AP {before}) → {names[self.order[i]]} (AP {after})"))
        return "\n".join(lines)


def check_label_order(
    model: GKGNetForImageClassification, processor: BaseImageProcessor, dataset: Dataset, batch_size: int = 16
) -> LabelOrder:
    """Score a dataset, and see in which order its labels fit the model's outputs; the model's own names do not count.

    Args:
        model, processor, batch_size: as in `predict_scores`.
        dataset: with `image`, `labels` and `label_ids` as the loaders of this package make it.

    Raises:
        ValueError: if the dataset has not as many labels as the model; as in `predict_scores` and `best_label_order`.

    Example:

        print(check_label_order(model, processor, validation).describe(label_names(validation)))
    """
    check_label_count(model, dataset)
    targets = dataset.with_format("numpy", columns=["labels"])["labels"][:]
    return best_label_order(predict_scores(model, processor, dataset, batch_size), targets)


def check_label_count(model: GKGNetForImageClassification, dataset: Dataset) -> None:
    """Raise ValueError unless the dataset has as many labels as the model."""
    count = len(label_names(dataset))
    if count != model.num_labels:
        raise ValueError(f"The dataset must have the model's {model.num_labels} labels, it has {count}")


def best_label_order(scores: ArrayLike, targets: ArrayLike) -> LabelOrder:
    """The assignment of outputs to labels that has the highest mAP.

    Every output is compared with every label (L² average precisions, 11 s for 40,137 images and 80 labels), then the
    assignment is solved exactly. Labels without a positive say nothing: they take the outputs that are left over, and
    stay where they are if they can.

    Args:
        scores: (N, L) of the network's outputs; only their order counts.
        targets: (N, L) of the dataset's labels; 1, 0, and −1 or NaN for unknown.

    Raises:
        ValueError: for shapes that differ, NaN among the scores, or if no label has a positive.

    >>> best = best_label_order([[0.9, 0.2], [0.1, 0.8]], [[0, 1], [1, 0]])
    >>> best.order, best.given_map, best.best_map
    ([1, 0], 50.0, 100.0)
    """
    scores, positive, _ = check_arrays(scores, targets)
    if not positive.any():
        raise ValueError(f"No label of the {len(scores)} images has a positive, so no order can be told from another")
    columns = (np.broadcast_to(column[:, None], scores.shape) for column in scores.T)
    precisions = 100 * np.stack([average_precision(column, targets) for column in columns])  # outputs × labels
    places = np.arange(len(precisions))
    _, order = linear_sum_assignment(np.nan_to_num(precisions) + STAYING * np.eye(len(places)), maximize=True)
    return LabelOrder(order.tolist(), precisions.diagonal().tolist(), precisions[places, order].tolist())
