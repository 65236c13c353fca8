import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from gkgnet_hf.training import multilabel_metrics
from gkgnet_hf.training.metrics import average_precision


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 10**6]), unknown=st.sampled_from([0.0, 0.3]))
def test_average_precision_is_scikit_learns_with_ties_and_unknowns(seed, levels, unknown):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (40, 6)) / levels
    targets = (rng.uniform(size=(40, 6)) < 0.3).astype(float)
    targets[rng.uniform(size=targets.shape) < unknown] = rng.choice([-1, np.nan])
    for label, actual in enumerate(average_precision(scores, targets)):
        known = targets[:, label] >= 0
        if not (targets[:, label] == 1).any():
            assert np.isnan(actual)
            continue
        expected = average_precision_score(targets[known, label], scores[known, label])
        assert actual == pytest.approx(expected, abs=1e-12)


def test_cf1_is_the_harmonic_mean_of_cp_and_cr():
    # Label 0: precision 1/2, recall 1. Label 1: precision 1, recall 1/2. Every F1 is 2/3, CP = CR = CF1 = 3/4.
    scores = [[0.9, 0.9], [0.9, 0.1], [0.1, 0.1]]
    targets = [[1, 1], [0, 1], [0, 0]]
    metrics = multilabel_metrics(scores, targets)
    assert metrics["CP"] == metrics["CR"] == metrics["CF1"] == pytest.approx(75)
    assert metrics["OP"] == metrics["OR"] == metrics["OF1"] == pytest.approx(200 / 3)


def test_only_the_highest_three_may_pass_the_threshold():
    scores, targets = [[0.9, 0.8, 0.7, 0.6]], [[1, 1, 1, 1]]
    metrics = multilabel_metrics(scores, targets)
    assert (metrics["OR"], metrics["OR_top3"], metrics["CR_top3"]) == (100, 75, 75)
    low = multilabel_metrics([[0.4, 0.3, 0.2, 0.1]], targets)
    assert (low["OR"], low["OR_top3"]) == (0, 0)


def test_unknown_targets_and_labels_without_positives_are_left_out():
    scores = [[0.9, 0.2, 0.9], [0.8, 0.7, 0.1]]
    metrics = multilabel_metrics(scores, [[1, 0, -1], [np.nan, 0, 0]])
    assert metrics["mAP"] == metrics["CP"] == metrics["CR"] == 100
    assert metrics["OP"] == 50  # label 1 was predicted once, wrongly


def test_no_positive_at_all_has_no_mean():
    metrics = multilabel_metrics([[0.9]], [[0]])
    assert np.isnan(metrics["mAP"])
    assert np.isnan(metrics["OR"])


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([[0.5]], [[1, 0]], r"\(1, 1\) and \(1, 2\)"),
        ([[3.2]], [[1]], "sigmoid.*3.2"),
        ([[np.nan]], [[1]], "probabilities"),
        ([[0.5]], [[0.5]], "got 0.5"),
    ],
)
def test_wrong_input_is_one_clear_error(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        multilabel_metrics(scores, targets)
