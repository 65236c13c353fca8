"""Decision thresholds that maximise F1."""

import numpy as np
from numpy.typing import ArrayLike

from .metrics import Bools, Floats, by_label, check_probabilities, count_cuts

UNFITTED = 0.5


def fit_thresholds(scores: ArrayLike, targets: ArrayLike, per_label: bool = True) -> list[float] | float:
    """The thresholds with the highest F1 of all, for the configuration's `decision_threshold`.

    Fit them on images that the model was not trained on and is not judged on. A threshold lies halfway between the
    lowest score that it lets pass and the next lower one; of equal F1s the highest threshold is taken.

    Args:
        scores: (N, L) probabilities.
        targets: (N, L); 1, 0, and −1 or NaN for unknown, which is left out.
        per_label: one threshold a label, of its own F1; else one for all, of the pooled decisions' F1 (OF1).

    Returns:
        L numbers, or one; 0.5 where there is no positive to fit to.

    Raises:
        ValueError: as in `multilabel_metrics`.

    >>> scores, targets = [[0.9, 0.3], [0.5, 0.2], [0.3, 0.1]], [[1, 1], [0, 1], [0, 0]]
    >>> fit_thresholds(scores, targets)
    [0.7, 0.15000000000000002]
    """
    scores, positive, known = check_probabilities(scores, targets)
    if per_label:
        return [_best_threshold(*label) for label in by_label(scores, positive, known)]
    return _best_threshold(scores[known], positive[known])


def _best_threshold(scores: Floats, positive: Bools) -> float:
    if not positive.any():
        return UNFITTED
    cuts, hits, predicted = count_cuts(scores, positive)
    best = np.argmax(2 * hits / (predicted + hits[-1]))
    passing, below = cuts[best], cuts[best + 1] if best + 1 < len(cuts) else cuts.dtype.type(0)
    middle = np.mean([passing, below], dtype=cuts.dtype)
    return float(middle if middle > below else passing)  # neighbouring floats have no middle
