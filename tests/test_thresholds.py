import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkgnet_hf.evaluation.metrics import per_label_metrics
from gkgnet_hf.evaluation.thresholds import fit_thresholds
from gkgnet_hf.training import multilabel_metrics

from .test_metrics import random_data

GRID = np.linspace(0, 1, 501)[:, None]


def f1(scores, targets, thresholds=GRID):
    """F1 at each of the thresholds, by counting."""
    known = targets >= 0
    predicted, positive = scores[known] >= thresholds, targets[known] == 1
    return 2 * (predicted & positive).sum(-1) / np.maximum(predicted.sum(-1) + positive.sum(), 1)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([3, 10, 10**6]))
def test_no_threshold_on_a_fine_grid_does_better(seed, levels):
    scores, targets = random_data(seed, levels=levels)
    thresholds = fit_thresholds(scores, targets)
    for label, threshold in enumerate(thresholds):
        assert f1(scores[:, label], targets[:, label], threshold) >= f1(scores[:, label], targets[:, label]).max()
    threshold = fit_thresholds(scores, targets, per_label=False)
    assert f1(scores, targets, threshold) >= f1(scores, targets).max()
    assert multilabel_metrics(scores, targets, threshold)["OF1"] == pytest.approx(100 * f1(scores, targets, threshold))
    np.testing.assert_allclose(
        np.nan_to_num(per_label_metrics(scores, targets, thresholds)["F1"]),
        [100 * f1(scores[:, label], targets[:, label], thresholds[label]) for label in range(6)],
    )


def test_a_threshold_lies_halfway_between_the_scores_it_parts():
    scores, targets = np.array([[0.8], [0.4], [0.2]]), [[1], [0], [0]]
    assert fit_thresholds(scores, targets) == pytest.approx([0.6])
    assert fit_thresholds(scores, targets, per_label=False) == pytest.approx(0.6)


def test_equal_scores_stay_together():
    # Cut above the ties, F1 is 2/3; below them, 4/5.
    threshold = fit_thresholds([[0.9], [0.5], [0.5], [0.1]], [[1], [1], [0], [0]])
    assert threshold == pytest.approx([0.3])


def test_neighbouring_scores_are_parted_exactly():
    for dtype in (np.float32, np.float64):
        lower = dtype(0.3)
        scores = np.array([[np.nextafter(lower, dtype(1))], [lower]])
        threshold = np.array(fit_thresholds(scores, [[1], [0]]))
        assert (scores >= threshold).tolist() == [[True], [False]]
        assert (scores >= threshold.astype(dtype)).tolist() == [[True], [False]]


def test_labels_without_positives_keep_one_half_and_labels_without_negatives_pass_everything():
    scores, targets = [[0.9, 0.3, 0.0], [0.8, 0.2, 0.4]], [[0, 1, 1], [-1, 1, 1]]
    thresholds = fit_thresholds(scores, targets)
    assert thresholds == pytest.approx([0.5, 0.1, 0.0])
    assert fit_thresholds([[0.9]], [[0]], per_label=False) == 0.5


def test_wrong_input_is_one_clear_error():
    with pytest.raises(ValueError, match=r"sigmoid.*3\.2"):
        fit_thresholds([[3.2]], [[1]])
