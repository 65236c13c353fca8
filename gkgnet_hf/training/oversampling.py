"""Repeating the images of rare labels."""

import numpy as np
from datasets import Dataset


def oversample(dataset: Dataset, threshold: float = 0.01, seed: int = 0) -> Dataset:
    """Repeat images of labels that fewer than `threshold` of the images have.

    An image is there max(1, √(threshold / frequency)) times for its rarest label's frequency, as in LVIS
    (https://arxiv.org/abs/1908.03195). Of what is not a whole number the seed decides whether to round
    it up, so that the expected count is exact.

    Args:
        dataset: with a column `labels`; a label's frequency counts the images where it is known.
        threshold: frequency, 0 to 1; the paper's is 0.01.
        seed: of the rounding.

    Returns:
        The dataset with repeated rows, neighbours of one another.

    Raises:
        TypeError: for a streamed dataset.
        ValueError: for a threshold outside [0, 1].

    >>> rare = Dataset.from_dict({"labels": [[1.0, 0.0]] * 99 + [[0.0, 1.0]]})
    >>> len(oversample(rare, threshold=0.04))  # the last image is there √(0.04 / 0.01) = 2 times
    101
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"Only a Dataset, whose labels can be counted, is oversampled, not a {type(dataset).__name__}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a frequency from 0 to 1, got {threshold}")
    labels = np.asarray(dataset.with_format("numpy", columns=["labels"])[:]["labels"])
    positive, known = labels == 1, labels >= 0
    frequency = positive.sum(0) / np.maximum(known.sum(0), 1)
    factor = np.sqrt(np.maximum(threshold / np.where(frequency > 0, frequency, 1), 1))
    repeats = np.where(positive, factor, 1).max(1)
    rounded = np.floor(repeats + np.random.default_rng(seed).random(len(repeats))).astype(int)
    return dataset.select(np.repeat(np.arange(len(rounded)), rounded))
