"""What a label's scores say at each threshold, and whether they mean what they say."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics import Bools, Counts, Floats, by_label, check_probabilities, count_cuts

STEPS = 200  # of a threshold from 0 to 1
CURVE_POINTS = 60
BINS = 10


def score_histograms(scores: ArrayLike, targets: ArrayLike) -> tuple[Counts, Counts]:
    """How many positives and negatives of each label have a score of each step of a threshold.

    Args:
        scores: (N, L) probabilities.
        targets: (N, L); 1, 0, and −1 or NaN for unknown, which is left out.

    Returns:
        Positives and negatives, both (L, STEPS + 1): those with k ≤ score · STEPS < k + 1. Summed up from k on, they
        are what the threshold k / STEPS predicts, exactly.

    Raises:
        ValueError: as in `multilabel_metrics`.

    >>> positives, negatives = score_histograms([[0.5], [0.499]], [[1], [0]])
    >>> positives[0].nonzero()[0].tolist(), negatives[0].nonzero()[0].tolist()
    ([100], [99])
    """
    scores, positive, known = check_probabilities(scores, targets)
    steps = np.searchsorted(np.arange(STEPS + 1) / STEPS, scores, side="right") - 1
    num_labels = scores.shape[1]
    cells = np.arange(num_labels) * (STEPS + 1) + steps

    def count(chosen: Bools) -> Counts:
        return np.bincount(cells[chosen], minlength=num_labels * (STEPS + 1)).reshape(num_labels, STEPS + 1)

    return count(positive), count(known & ~positive)


def precision_recall_curve(scores: Floats, positive: Bools) -> NDArray[np.float64]:
    """Recall and precision of one label where a positive comes in, and just before; of many, an even choice.

    Args:
        scores: (K,).
        positive: (K,).

    Returns:
        (P, 2), recall rising, P at most `CURVE_POINTS`; (0, 2) without a positive.

    >>> precision_recall_curve(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])).round(2).tolist()
    [[0.5, 1.0], [0.5, 0.5], [1.0, 0.67]]
    """
    if not positive.any():
        return np.empty((0, 2))
    _, hits, predicted = count_cuts(scores, positive)
    rises = np.flatnonzero(np.diff(hits, prepend=0) > 0)
    cuts = np.union1d(rises, rises[1:] - 1)
    if len(cuts) > CURVE_POINTS:
        cuts = rises[np.linspace(0, len(rises) - 1, min(CURVE_POINTS, len(rises))).round().astype(int)]
    return np.stack((hits[cuts] / hits[-1], hits[cuts] / predicted[cuts]), axis=1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often scores come true, in `BINS` bins of equal width, as scikit-learn's calibration_curve has them.

    Attributes:
        counts: (BINS,) scores in each bin.
        means: (BINS,) their mean; NaN in an empty bin.
        frequencies: (BINS,) the part of them that is positive; NaN in an empty bin.
    """

    counts: Counts
    means: Floats
    frequencies: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of means and frequencies over all scores; NaN without any."""
        filled = self.counts > 0
        if not filled.any():
            return float("nan")
        distances = np.abs(self.means - self.frequencies)[filled]
        return float(np.average(distances, weights=self.counts[filled]))


def calibration(scores: Floats, positive: Bools) -> Calibration:
    """Whether scores mean what they say.

    Args:
        scores: (K,) probabilities.
        positive: (K,).

    >>> found = calibration(np.array([0.84, 0.86, 0.11]), np.array([True, False, False]))
    >>> found.counts.tolist(), float(found.frequencies[8]), round(found.error, 2)
    ([0, 1, 0, 0, 0, 0, 0, 0, 2, 0], 0.5, 0.27)
    """
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], scores)
    counts = np.bincount(bins, minlength=BINS)
    divisor = np.where(counts > 0, counts, np.nan)
    means = np.bincount(bins, scores, minlength=BINS) / divisor
    frequencies = np.bincount(bins, positive, minlength=BINS) / divisor
    return Calibration(counts, means, frequencies)


def label_curves(scores: Floats, positive: Bools, known: Bools) -> tuple[list[NDArray[np.float64]], list[Calibration]]:
    """`precision_recall_curve` and `calibration` of each of L labels; arrays as in `by_label`."""
    curves = [(precision_recall_curve(*label), calibration(*label)) for label in by_label(scores, positive, known)]
    return [curve for curve, _ in curves], [found for _, found in curves]
