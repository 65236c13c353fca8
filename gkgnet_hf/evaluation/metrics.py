"""Multi-label metrics of the literature, in percent, on arrays.

Every function takes what numpy takes, and torch tensors of any dtype and device.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..predict import check_not_nan, label_thresholds

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Counts = NDArray[np.integer]

# COCO's sizes of an object, in pixels²: from the first to below the second.
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, np.inf)}


def multilabel_metrics(
    scores: ArrayLike, targets: ArrayLike, threshold: ArrayLike = 0.5, top_k: int = 3
) -> dict[str, float]:
    """mAP, and precision, recall and F1 per class (C…) and overall (O…).

    CP and CR are means over labels, CF1 is the harmonic mean of CP and CR (not the mean of F1s). OP, OR and OF1 pool
    all decisions. The last six come again as `_top3` (or whatever `top_k` is), where only an image's three highest
    scores may pass the threshold. Labels without a positive are left out of the means over labels; a label that was
    never predicted has precision 0.

    Args:
        scores: (N, L) probabilities.
        targets: (N, L); 1, 0, and −1 or NaN for unknown, which is left out everywhere.
        threshold: one number, or (L,); a score at or above it predicts the label.
        top_k: most labels an image may have in the `_top` metrics.

    Returns:
        Metric name → percent. NaN where nothing is defined (no positive at all).

    Raises:
        ValueError: for shapes that differ, NaN among the scores, scores or thresholds outside [0, 1], other targets, or
            a `top_k` below 1.

    >>> metrics = multilabel_metrics([[0.9, 0.2], [0.1, 0.8]], [[1, 0], [0, 1]])
    >>> metrics["mAP"], metrics["CF1"]
    (100.0, 100.0)
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    scores, positive, known = check_probabilities(scores, targets)
    predicted = known & (scores >= label_thresholds(threshold, scores.shape[1]))
    metrics = {"mAP": _mean_average_precision(scores, positive, known)}
    metrics |= _precision_recall(predicted, positive)
    top = _precision_recall(predicted & _highest(scores, known, top_k), positive)
    return metrics | {f"{name}_top{top_k}": value for name, value in top.items()}


def per_label_metrics(scores: ArrayLike, targets: ArrayLike, threshold: ArrayLike = 0.5) -> dict[str, Floats | Counts]:
    """Metrics and counts of each label.

    Args:
        scores, targets, threshold: as in `multilabel_metrics`.

    Returns:
        Name → (L,). AP, precision, recall and F1 in percent; all but precision are NaN for a label without positives.
        positives, negatives and unknown count its images.

    Raises:
        ValueError: as in `multilabel_metrics`.

    >>> metrics = per_label_metrics([[0.9, 0.2], [0.6, 0.8]], [[1, -1], [0, 0]])
    >>> metrics["precision"].tolist(), metrics["recall"].tolist(), metrics["unknown"].tolist()
    ([50.0, 0.0], [100.0, nan], [0, 1])
    """
    scores, positive, known = check_probabilities(scores, targets)
    predicted = known & (scores >= label_thresholds(threshold, scores.shape[1]))
    hits, num_predicted, num_positive = (predicted & positive).sum(0), predicted.sum(0), positive.sum(0)
    support = np.where(num_positive > 0, num_positive, np.nan)
    num_known = known.sum(0)
    return {
        "AP": 100 * _average_precision(scores, positive, known),
        "precision": 100 * hits / np.maximum(num_predicted, 1),
        "recall": 100 * hits / support,
        "F1": 200 * hits / (num_predicted + support),
        "positives": num_positive,
        "negatives": num_known - num_positive,
        "unknown": len(scores) - num_known,
    }


def size_metrics(scores: ArrayLike, targets: ArrayLike, areas: ArrayLike) -> dict[str, float]:
    """mAP by object size: small below 32² pixels, large from 96² on, medium between.

    A size's positives are the images whose largest object of the label has that size; images that have the label in
    another size are left out. Negatives are the images without the label.

    Args:
        scores, targets: as in `multilabel_metrics`.
        areas: (N, L) area of the image's largest object of the label in pixels²; read only where the label is
            positive.

    Returns:
        mAP_small, mAP_medium and mAP_large in percent; NaN where no label has an object of that size.

    Raises:
        ValueError: for a positive label without an area; else as in `multilabel_metrics`.

    >>> size_metrics([[0.9], [0.5], [0.1]], [[1], [0], [1]], [[100**2], [0], [20**2]])
    {'mAP_small': 50.0, 'mAP_medium': nan, 'mAP_large': 100.0}
    """
    scores, positive, known = check_probabilities(scores, targets)
    areas = check_areas(areas, positive)
    metrics = {}
    for name, (smallest, limit) in SIZES.items():
        of_size = positive & (areas >= smallest) & (areas < limit)
        metrics[f"mAP_{name}"] = _mean_average_precision(scores, of_size, known & (of_size | ~positive))
    return metrics


def random_baseline_map(targets: ArrayLike) -> float:
    """mAP in percent of a classifier that scores at random: the mean frequency of the labels.

    Args:
        targets: (N, L) as in `multilabel_metrics`; labels without positives are left out here too.

    Raises:
        ValueError: for other targets.

    >>> random_baseline_map([[1, 0], [0, 0], [-1, 0]])
    50.0
    """
    positive, known = positive_and_known(targets)
    evaluated = positive.any(0)
    return 100 * _mean(positive.sum(0)[evaluated] / known.sum(0)[evaluated])


def average_precision(scores: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Average precision of each label, Σ precision · Δrecall over the distinct scores, as scikit-learn defines it.

    Args:
        scores: (N, L); only their order counts.
        targets: (N, L) as in `multilabel_metrics`.

    Returns:
        (L,) fractions; NaN for a label without positives.

    Raises:
        ValueError: for shapes that differ, NaN among the scores, other targets.

    >>> average_precision([[0.9], [0.8], [0.7]], [[1], [0], [1]]).round(4)
    array([0.8333])
    """
    return _average_precision(*check_arrays(scores, targets))


def _average_precision(scores: Floats, positive: Bools, known: Bools) -> NDArray[np.float64]:
    precisions = np.full(scores.shape[1], np.nan)
    for label, (label_scores, label_positive) in enumerate(by_label(scores, positive, known)):
        if label_positive.any():
            _, hits, predicted = count_cuts(label_scores, label_positive)
            precisions[label] = (hits / predicted * np.diff(hits, prepend=0)).sum() / hits[-1]
    return precisions


def _mean_average_precision(scores: Floats, positive: Bools, known: Bools) -> float:
    precisions = _average_precision(scores, positive, known)
    return 100 * _mean(precisions[~np.isnan(precisions)])


def _highest(scores: Floats, known: Bools, top_k: int) -> Bools:
    """Where each image's `top_k` highest known scores are, (N, L); of equal scores the first."""
    remaining = np.where(known, scores, -1)
    highest = np.zeros_like(known)
    images = np.arange(len(scores))
    for _ in range(min(top_k, scores.shape[1])):
        label = remaining.argmax(axis=1)
        highest[images, label] = True
        remaining[images, label] = -1
    return highest & known


def _precision_recall(predicted: Bools, positive: Bools) -> dict[str, float]:
    hits = (predicted & positive).sum(0)
    num_predicted, num_positive = predicted.sum(0), positive.sum(0)
    evaluated = num_positive > 0
    metrics = {
        "CP": _mean(hits[evaluated] / np.maximum(num_predicted[evaluated], 1)),
        "CR": _mean(hits[evaluated] / num_positive[evaluated]),
        "OP": hits.sum() / max(num_predicted.sum(), 1),
        "OR": hits.sum() / num_positive.sum() if evaluated.any() else np.nan,
    }
    for average in "CO":
        precision, recall = metrics[f"{average}P"], metrics[f"{average}R"]
        metrics[f"{average}F1"] = 2 * precision * recall / max(precision + recall, np.finfo(float).tiny)
    return {name: 100 * float(metrics[name]) for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")}


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def check_probabilities(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Bools, Bools]:
    """Scores, where a label is positive, and where it is known, all (N, L).

    Args, Raises: as in `multilabel_metrics`.
    """
    scores, positive, known = check_arrays(scores, targets)
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(
            f"scores must be probabilities in [0, 1] (apply a sigmoid to logits), got {scores.min()} to {scores.max()}"
        )
    return scores, positive, known


def check_arrays(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Bools, Bools]:
    """Scores of any range, where a label is positive, and where it is known; ValueError unless all are (N, L)."""
    scores = as_floats(scores)
    positive, known = positive_and_known(targets)
    if scores.ndim != 2 or scores.shape != positive.shape:
        raise ValueError(f"scores and targets must both be (images, labels), got {scores.shape} and {positive.shape}")
    check_not_nan(scores)
    return scores, positive, known


def check_areas(areas: ArrayLike, positive: Bools) -> Floats:
    """Areas (N, L) of the largest object of each label; those of labels that are not positive mean nothing.

    Raises:
        ValueError: for shapes that differ, or a positive label without an area above 0.
    """
    areas = as_floats(areas)
    if areas.shape != positive.shape:
        raise ValueError(f"areas must be (images, labels) as targets {positive.shape}, got {areas.shape}")
    if (missing := positive & ~(areas > 0)).any():
        image, label = np.argwhere(missing)[0]
        raise ValueError(
            f"areas must be above 0 where the label is positive, got {areas[image, label]} for image {image}, label "
            f"{label} ({missing.sum():,} of {positive.sum():,} like it)"
        )
    return areas


def positive_and_known(targets: ArrayLike) -> tuple[Bools, Bools]:
    """Where a label is positive, and where it is known; ValueError unless all targets are 1, 0, −1 or NaN."""
    targets = as_floats(targets)
    positive = targets == 1
    known = positive | (targets == 0)
    strange = ~(known | (targets == -1) | np.isnan(targets))
    if strange.any():
        raise ValueError(f"targets must be 1, 0, and -1 or NaN for unknown, got {targets[strange][0]}")
    return positive, known


def as_floats(values: ArrayLike) -> Floats:
    """Values as float32 or float64: a tensor of any dtype and device, an array of any dtype (bfloat16 too), or lists.

    >>> as_floats(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().to(torch.promote_types(values.dtype, torch.float32)).numpy()
    array = np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def by_label(scores: Floats, positive: Bools, known: Bools) -> Iterator[tuple[Floats, Bools]]:
    """For each label the scores (K,) of the images where it is known, and whether it is positive (K,)."""
    for label in range(scores.shape[1]):
        rows = known[:, label]
        yield scores[rows, label], positive[rows, label]


def count_cuts(scores: Floats, positive: Bools) -> tuple[Floats, Counts, Counts]:
    """What is predicted when scores are cut at each of their C distinct values, equal scores together.

    Average precision and the fitted thresholds follow from these counts. scikit-learn's curves give the same, 3.7 times
    as slowly for 40,137 images and 80 labels, and `best_label_order` asks for 80 times as many.

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
