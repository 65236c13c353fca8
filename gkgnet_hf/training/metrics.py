"""Multi-label metrics of the literature, in percent, on arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def multilabel_metrics(
    scores: ArrayLike, targets: ArrayLike, threshold: float = 0.5, top_k: int = 3
) -> dict[str, float]:
    """mAP, and precision, recall and F1 per class (C…) and overall (O…).

    CP and CR are means over labels, CF1 is the harmonic mean of CP and CR (not the mean of F1s). OP, OR and OF1 pool
    all decisions. The last six come again as `_top3` (or whatever `top_k` is), where only an image's three highest
    scores may pass the threshold. Labels without a positive are left out of the means over labels; a label that was
    never predicted has precision 0.

    Args:
        scores: (N, L) probabilities.
        targets: (N, L); 1, 0, and −1 or NaN for unknown, which is left out everywhere.
        threshold: a score at or above it predicts the label.
        top_k: most labels an image may have in the `_top` metrics.

    Returns:
        Metric name → percent. NaN where nothing is defined (no positive at all).

    Raises:
        ValueError: for shapes that differ, scores outside [0, 1] or other targets.

    >>> metrics = multilabel_metrics([[0.9, 0.2], [0.1, 0.8]], [[1, 0], [0, 1]])
    >>> metrics["mAP"], metrics["CF1"]
    (100.0, 100.0)
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    _check(scores, targets)
    known = ~(np.isnan(targets) | (targets == -1))
    positive = targets == 1
    precision = average_precision(scores, targets)
    metrics = {"mAP": 100 * _mean(precision[~np.isnan(precision)])}
    predicted = (scores >= threshold) & known
    metrics |= _precision_recall(predicted, positive)
    order = np.argsort(np.where(known, -scores, np.inf), axis=1, kind="stable")[:, :top_k]
    highest = np.zeros_like(predicted)
    np.put_along_axis(highest, order, True, axis=1)
    top = _precision_recall(predicted & highest, positive)
    return metrics | {f"{name}_top{top_k}": value for name, value in top.items()}


def average_precision(scores: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Average precision of each label, Σ precision · Δrecall over the distinct scores, as scikit-learn defines it.

    Args:
        scores: (N, L); only their order counts.
        targets: (N, L) as in `multilabel_metrics`.

    Returns:
        (L,) fractions; NaN for a label without positives.

    >>> average_precision([[0.9], [0.8], [0.7]], [[1], [0], [1]]).round(4)
    array([0.8333])
    """
    scores, targets = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    order = np.argsort(-scores, axis=0)
    scores = np.take_along_axis(scores, order, axis=0)
    targets = np.take_along_axis(targets, order, axis=0)
    positive = targets == 1
    hits = np.cumsum(positive, axis=0)
    seen = np.cumsum(positive | (targets == 0), axis=0)
    # Equal scores share the precision at the last of them.
    rows = np.arange(len(scores))[:, None]
    ends = np.full(scores.shape, len(scores) - 1)
    ends[:-1] = np.where(scores[:-1] != scores[1:], rows[:-1], len(scores))
    ends = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
    precision = np.take_along_axis(hits / np.maximum(seen, 1), ends, axis=0)
    with np.errstate(invalid="ignore"):
        return (precision * positive).sum(0) / positive.sum(0)


def _precision_recall(predicted: NDArray[np.bool_], positive: NDArray[np.bool_]) -> dict[str, float]:
    hits = (predicted & positive).sum(0)
    num_predicted, num_positive = predicted.sum(0), positive.sum(0)
    there = num_positive > 0
    metrics = {
        "CP": _mean(hits[there] / np.maximum(num_predicted[there], 1)),
        "CR": _mean(hits[there] / num_positive[there]),
        "OP": hits.sum() / max(num_predicted.sum(), 1),
        "OR": hits.sum() / num_positive.sum() if there.any() else np.nan,
    }
    for average in "CO":
        precision, recall = metrics[f"{average}P"], metrics[f"{average}R"]
        metrics[f"{average}F1"] = 2 * precision * recall / max(precision + recall, np.finfo(float).tiny)
    return {name: 100 * float(metrics[name]) for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")}


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _check(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores and targets must both be (images, labels), got {scores.shape} and {targets.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(
            f"scores must be probabilities in [0, 1] (apply a sigmoid to logits), got {scores.min()} to {scores.max()}"
        )
    strange = targets[~(np.isnan(targets) | np.isin(targets, (-1, 0, 1)))]
    if strange.size:
        raise ValueError(f"targets must be 1, 0, and -1 or NaN for unknown, got {strange[0]}")
