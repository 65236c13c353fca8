"""Labels in pairs: which come together, and which are predicted in place of which."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from ...predict import label_thresholds
from ..metrics import Bools, Counts, check_probabilities


def together(positive: Bools) -> Counts:
    """Images that have both of two labels: (N, L) → (L, L); on the diagonal those that have the label.

    >>> together(np.array([[True, True], [True, False]])).tolist()
    [[2, 1], [1, 1]]
    """
    return _pairs(positive, positive)


def confusion(scores: ArrayLike, targets: ArrayLike, threshold: ArrayLike = 0.5) -> tuple[Counts, Counts]:
    """Which labels are predicted in place of which.

    Args:
        scores, targets, threshold: as in `multilabel_metrics`.

    Returns:
        (L, L) the images where label a is there but missed, and label b is predicted but not there; and (L,) the images
        where a is missed. An image with several of either counts for each pair.

    Raises:
        ValueError: as in `multilabel_metrics`.

    >>> in_place, missed = confusion([[0.1, 0.9], [0.2, 0.1]], [[1, 0], [1, 0]])
    >>> in_place.tolist(), missed.tolist()
    ([[0, 1], [0, 0]], [2, 0])
    """
    scores, positive, known = check_probabilities(scores, targets)
    predicted = scores >= label_thresholds(threshold, scores.shape[1])
    missed = positive & ~predicted
    return _pairs(missed, predicted & known & ~positive), missed.sum(0)


def _pairs(first: Bools, second: Bools) -> Counts:
    a, b = (sparse.csr_array(found.astype(np.int64)) for found in (first, second))
    return (a.T @ b).toarray()
