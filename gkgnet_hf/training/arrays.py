"""Scores and targets as arrays: checked, split by label, counted."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Counts = NDArray[np.integer]


def check_arrays(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Bools, Bools]:
    """Scores, where a label is there, and where that is known, all (N, L).

    Args:
        scores: (N, L) probabilities.
        targets: (N, L); 1, 0, and −1 or NaN for unknown.

    Raises:
        ValueError: for shapes that differ, scores outside [0, 1] or other targets.
    """
    scores = _floats(scores)
    positive, known = positive_and_known(targets)
    if scores.ndim != 2 or scores.shape != positive.shape:
        raise ValueError(f"scores and targets must both be (images, labels), got {scores.shape} and {positive.shape}")
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):  # NaN too
        raise ValueError(
            f"scores must be probabilities in [0, 1] (apply a sigmoid to logits), got {scores.min()} to {scores.max()}"
        )
    return scores, positive, known


def check_areas(areas: ArrayLike, positive: Bools) -> Floats:
    """Areas (N, L) of the largest object of each label; those where the label is not there mean nothing.

    Raises:
        ValueError: for shapes that differ, or a label that is there without an area above 0.
    """
    areas = _floats(areas)
    if areas.shape != positive.shape:
        raise ValueError(f"areas must be (images, labels) as targets {positive.shape}, got {areas.shape}")
    if (missing := positive & ~(areas > 0)).any():
        image, label = np.argwhere(missing)[0]
        raise ValueError(
            f"areas must be above 0 where the label is there, got {areas[image, label]} for image {image}, label "
            f"{label} ({missing.sum():,} of {positive.sum():,} like it)"
        )
    return areas


def positive_and_known(targets: ArrayLike) -> tuple[Bools, Bools]:
    """Where a label is there, and where that is known; ValueError unless all are 1, 0, −1 or NaN."""
    targets = _floats(targets)
    positive = targets == 1
    known = positive | (targets == 0)
    strange = ~(known | (targets == -1) | np.isnan(targets))
    if strange.any():
        raise ValueError(f"targets must be 1, 0, and -1 or NaN for unknown, got {targets[strange][0]}")
    return positive, known


def label_thresholds(threshold: ArrayLike, num_labels: int) -> NDArray[np.float64]:
    """One threshold for all labels, or one a label → (L,) float64.

    Raises:
        ValueError: for another number of thresholds, or one outside [0, 1].
    """
    thresholds = np.asarray(threshold, dtype=np.float64)
    if thresholds.shape not in ((), (num_labels,)):
        raise ValueError(f"threshold must be one number, or {num_labels}, one a label; got shape {thresholds.shape}")
    if (outside := ~((thresholds >= 0) & (thresholds <= 1))).any():
        raise ValueError(f"threshold must be in [0, 1], got {thresholds[outside][0]}")
    return np.broadcast_to(thresholds, num_labels)


def by_label(scores: Floats, positive: Bools, known: Bools) -> Iterator[tuple[Floats, Bools]]:
    """For each label the scores (K,) of the images where it is known, and whether it is there (K,)."""
    for label in range(scores.shape[1]):
        rows = known[:, label]
        yield scores[rows, label], positive[rows, label]


def count_cuts(scores: Floats, positive: Bools) -> tuple[Floats, Counts, Counts]:
    """What is predicted when scores are cut at each of their C distinct values, equal scores together.

    Args:
        scores: (K,), at least one.
        positive: (K,).

    Returns:
        The distinct scores (C,), highest first; how many positives (C,) and how many at all (C,) are at or above each.

    >>> count_cuts(np.array([0.5, 0.9, 0.5]), np.array([True, False, False]))
    (array([0.9, 0.5]), array([0, 1]), array([1, 3]))
    """
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    return scores[last], np.cumsum(positive[order], dtype=np.int64)[last], last + 1


def _floats(values: ArrayLike) -> Floats:
    array = np.asarray(values)
    return array if array.dtype.kind == "f" else array.astype(np.float64)
