"""How far average precision would move with other images: the bootstrap over images, paired for two models.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ..metrics import Bools, Floats, average_precision, check_arrays, count_cuts

NUM_SAMPLES = 1000
LEVEL = 95  # percent of the samples that an interval covers
SAMPLES_AT_ONCE = 100


@dataclass(frozen=True, eq=False)
class Comparison:
    """Average precision of two models on the same N images with L labels, in percent. NaN where nothing is defined.

    Attributes:
        first, second: (L,) AP of each label.
        difference: mAP of the second minus that of the first.
        interval: (2,) that covers 95 % of the differences of samples.
        p_value: two-sided: how rarely samples put the other model ahead, at least 2 / (number of samples + 1).
        label_intervals: (L, 2) of the difference of each label.
    """

    first: Floats
    second: Floats
    difference: float
    interval: Floats
    p_value: float
    label_intervals: Floats


def bootstrap_average_precision(
    scores: ArrayLike, targets: ArrayLike, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> NDArray[np.float32]:
    """Average precision of each label on samples of N images, drawn with replacement.

    The same seed draws the same images whatever the scores, so two models can be compared sample by sample.

    Args:
        scores: (N, L); only their order counts.
        targets: (N, L); 1, 0, and −1 or NaN for unknown, which is left out.
        num_samples: S samples.
        seed: of the drawing.

    Returns:
        (S, L) fractions; NaN where a sample has no positive of the label.

    Raises:
        ValueError: as in `average_precision`.

    >>> scores, targets = np.array([[0.9], [0.8], [0.7]]), np.array([[1], [0], [1]])
    >>> samples = bootstrap_average_precision(scores, targets)
    >>> samples.shape, bool(0.7 < np.nanmean(samples) < 0.95)
    ((1000, 1), True)
    """
    scores, positive, known = check_arrays(scores, targets)
    found = np.full((num_samples, scores.shape[1]), np.nan, dtype=np.float32)
    columns = enumerate(zip(scores.T, positive.T, known.T, strict=True))
    cuts = [(label, *_cut_at_positives(*column)) for label, column in columns]
    for start, drawn in _samples(len(scores), num_samples, seed):
        for label, predicted, hit in cuts:
            if predicted.shape[0]:
                found[start : start + drawn.shape[1], label] = _weighted_precision(predicted @ drawn, hit @ drawn)
    return found


def _samples(num_images: int, num_samples: int, seed: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """For some samples at a time the number of the first, and how often each image is in each, (N, samples)."""
    generator = np.random.default_rng(seed)
    for start in range(0, num_samples if num_images else 0, SAMPLES_AT_ONCE):
        drawn = np.empty((num_images, min(SAMPLES_AT_ONCE, num_samples - start)), dtype=np.float32)
        for sample in drawn.T:
            sample[:] = np.bincount(generator.integers(num_images, size=num_images), minlength=num_images)
        yield start, drawn


def _cut_at_positives(scores: Floats, positive: Bools, known: Bools) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Of one label (N,): which images, and which positives, come in from one cut to the next, both (C, N).

    Precision counts where a positive comes in, so these are the C distinct scores of positives, highest first.
    """
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(scores[rows], kind="stable")[::-1]]
    hits = positive[rows]
    if not hits.any():
        return sparse.csr_array((0, len(scores))), sparse.csr_array((0, len(scores)))
    _, num_hits, num_predicted = count_cuts(scores[rows], hits)
    ends = num_predicted[np.diff(num_hits, prepend=0) > 0]
    rows, hits = rows[: ends[-1]], hits[: ends[-1]]
    starts = np.concatenate([[0], ends])
    hit_starts = np.concatenate([[0], np.cumsum(hits)[ends - 1]])
    shape = (len(ends), len(scores))
    return (
        sparse.csr_array((np.ones(len(rows), dtype=np.float32), rows, starts), shape),
        sparse.csr_array((np.ones(hit_starts[-1], dtype=np.float32), rows[hits], hit_starts), shape),
    )


def _weighted_precision(predicted: NDArray[np.float32], hits: NDArray[np.float32]) -> NDArray[np.float32]:
    """AP (S,) from how many images, and how many positives, come in at each of C cuts of S samples, both (C, S)."""
    all_hits = np.cumsum(hits, axis=0)
    precision = all_hits / np.maximum(np.cumsum(predicted, axis=0), 1)
    total = np.where(all_hits[-1] > 0, all_hits[-1], np.nan)
    return (hits * precision).sum(axis=0) / total


def mean_interval(samples: NDArray[np.float32]) -> Floats:
    """The interval (2,) of mAP, in percent, from the AP of samples (S, L); labels without a positive do not count."""
    return interval(100 * _mean_over_labels(samples))


def interval(values: Floats) -> Floats:
    """What covers `LEVEL` percent of values (S, ...): the lower and upper end, (..., 2); NaN where there is none.

    >>> interval(np.linspace(0, 100, 1001)).tolist()
    [2.5, 97.5]
    """
    tail = (100 - LEVEL) / 2
    ends = np.full((2, *values.shape[1:]), np.nan)
    defined = ~np.isnan(values).all(axis=0)
    if defined.any():
        ends[:, defined] = np.nanpercentile(values[:, defined], [tail, 100 - tail], axis=0)
    return np.moveaxis(ends, 0, -1)


def compare(
    first: ArrayLike, second: ArrayLike, targets: ArrayLike, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> Comparison:
    """Whether the second of two models is better than the first: a paired bootstrap over the images.

    Args:
        first, second: (N, L) scores of the same images and labels.
        targets: (N, L) as in `bootstrap_average_precision`.
        num_samples, seed: likewise.

    Raises:
        ValueError: as in `average_precision`.

    >>> targets = np.tile([[1], [0]], (20, 1))
    >>> compare(1 - targets, targets, targets).p_value < 0.01
    True
    """
    samples = [bootstrap_average_precision(scores, targets, num_samples, seed) for scores in (first, second)]
    differences = _mean_over_labels(samples[1]) - _mean_over_labels(samples[0])
    differences = differences[~np.isnan(differences)]
    behind, ahead = (differences <= 0).sum(), (differences >= 0).sum()
    p_value = min(1.0, 2 * (min(behind, ahead) + 1) / (len(differences) + 1)) if len(differences) else float("nan")
    precisions = [100 * average_precision(scores, targets) for scores in (first, second)]
    return Comparison(
        first=precisions[0],
        second=precisions[1],
        difference=float(_mean_over_labels(precisions[1][None])[0] - _mean_over_labels(precisions[0][None])[0]),
        interval=interval(100 * differences),
        p_value=float(p_value),
        label_intervals=interval(100 * (samples[1] - samples[0])),
    )


def _mean_over_labels(precisions: Floats) -> Floats:
    """(S, L) → (S,): the mean over labels that have a positive."""
    defined = ~np.isnan(precisions)
    count = np.where(defined.any(axis=1), defined.sum(axis=1), np.nan)
    return np.where(defined, precisions, 0).sum(axis=1) / count
