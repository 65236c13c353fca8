import evaluate
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from gkgnet_hf.evaluation import (
    average_precision,
    evaluate_scores,
    fit_thresholds,
    metric_module,
    multilabel_metrics,
    per_label_metrics,
    random_baseline_map,
    size_metrics,
)
from gkgnet_hf.evaluation.label_order import best_label_order
from gkgnet_hf.evaluation.metric_module import MultiLabelMetric


def random_data(seed, images=40, labels=6, levels=5, unknown=0.2):
    """Scores with ties, targets with unknowns."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (images, labels)) / levels
    targets = (rng.uniform(size=scores.shape) < 0.3).astype(float)
    targets[rng.uniform(size=targets.shape) < unknown] = rng.choice([-1, np.nan])
    return scores, targets


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, 10**6]), unknown=st.sampled_from([0.0, 0.3]))
def test_average_precision_is_scikit_learns_with_ties_and_unknowns(seed, levels, unknown):
    scores, targets = random_data(seed, levels=levels, unknown=unknown)
    for label, actual in enumerate(average_precision(scores, targets)):
        known = targets[:, label] >= 0
        if not (targets[:, label] == 1).any():
            assert np.isnan(actual)
            continue
        expected = average_precision_score(targets[known, label], scores[known, label])
        assert actual == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([np.float32, np.float64]))
def test_precision_and_recall_are_scikit_learns(seed, dtype):
    scores, targets = random_data(seed)
    thresholds = np.random.default_rng(seed).uniform(0.2, 0.8, 6)
    known = targets >= 0
    expected = []
    for label in range(6):
        rows = known[:, label]
        predicted = scores[rows, label] >= thresholds[label]
        expected.append(
            precision_recall_fscore_support(targets[rows, label], predicted, average="binary", zero_division=0)[:3]
        )
    expected = 100 * np.array(expected)
    there = (targets == 1).any(0)
    metrics = per_label_metrics(scores.astype(dtype), targets.astype(dtype), thresholds)
    for i, name in enumerate(("precision", "recall", "F1")):
        np.testing.assert_allclose(metrics[name][there], expected[there, i])
    pooled = precision_recall_fscore_support(
        targets[known], (scores >= thresholds)[known], average="binary", zero_division=0
    )
    together = multilabel_metrics(scores.astype(dtype), targets.astype(dtype), thresholds)
    assert [together["OP"], together["OR"], together["OF1"]] == pytest.approx([100 * p for p in pooled[:3]])
    assert together["CP"] == pytest.approx(expected[there, 0].mean())
    assert together["CR"] == pytest.approx(expected[there, 1].mean())
    assert together["mAP"] == pytest.approx(metrics["AP"][there].mean())


def test_cf1_is_the_harmonic_mean_of_cp_and_cr():
    # Label 0: precision 1/2, recall 1. Label 1: precision 1, recall 1/2. Every F1 is 2/3, CP = CR = CF1 = 3/4.
    scores = [[0.9, 0.9], [0.9, 0.1], [0.1, 0.1]]
    targets = [[1, 1], [0, 1], [0, 0]]
    metrics = multilabel_metrics(scores, targets)
    assert metrics["CP"] == metrics["CR"] == metrics["CF1"] == pytest.approx(75)
    assert metrics["OP"] == metrics["OR"] == metrics["OF1"] == pytest.approx(200 / 3)


def test_cf1_differs_from_the_mean_of_f1s():
    # Label 0: precision 1, recall 1/2, F1 2/3. Label 1: precision 1/4, recall 1, F1 2/5. The mean of F1s is 53.3.
    scores = [[0.9, 0.9], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9]]
    targets = [[1, 1], [1, 0], [0, 0], [0, 0]]
    metrics = multilabel_metrics(scores, targets)
    actual = [metrics[name] for name in ("CP", "CR", "CF1", "OP", "OR", "OF1")]
    assert actual == pytest.approx([62.5, 75, 100 * 15 / 22, 40, 200 / 3, 50])


def test_only_the_highest_three_may_pass_the_threshold():
    scores, targets = [[0.9, 0.8, 0.7, 0.6]], [[1, 1, 1, 1]]
    metrics = multilabel_metrics(scores, targets)
    assert (metrics["OR"], metrics["OR_top3"], metrics["CR_top3"]) == (100, 75, 75)
    low = multilabel_metrics([[0.4, 0.3, 0.2, 0.1]], targets)
    assert (low["OR"], low["OR_top3"]) == (0, 0)


def test_of_equal_scores_the_first_are_the_highest_and_unknown_ones_take_no_place():
    metrics = multilabel_metrics([[0.7, 0.9, 0.7, 0.7]], [[1, -1, 0, 1]], top_k=2)
    assert (metrics["OP_top2"], metrics["OR_top2"]) == (50, 50)
    assert multilabel_metrics([[0.9, 0.8]], [[1, 1]], top_k=5)["OR_top5"] == 100
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        multilabel_metrics([[0.9, 0.8]], [[1, 1]], top_k=0)


def test_a_threshold_a_label_decides_for_that_label():
    scores, targets = [[0.4, 0.4], [0.1, 0.6]], [[1, 0], [0, 1]]
    assert multilabel_metrics(scores, targets, threshold=[0.3, 0.5])["OF1"] == 100
    assert multilabel_metrics(scores, targets, threshold=0.5)["OR"] == 50


def test_unknown_targets_and_labels_without_positives_are_left_out():
    scores = [[0.9, 0.2, 0.9], [0.8, 0.7, 0.1]]
    metrics = multilabel_metrics(scores, [[1, 0, -1], [np.nan, 0, 0]])
    assert metrics["mAP"] == metrics["CP"] == metrics["CR"] == 100
    assert metrics["OP"] == 50  # label 1 was predicted once, wrongly


def test_no_positive_at_all_has_no_mean():
    metrics = multilabel_metrics([[0.9]], [[0]])
    assert np.isnan(metrics["mAP"])
    assert np.isnan(metrics["OR"])


def test_a_label_without_positives_is_reported_and_left_out_of_the_mean():
    scores, targets = [[0.9, 0.8, 0.1], [0.2, 0.1, 0.3]], [[1, 0, -1], [0, -1, np.nan]]
    metrics = per_label_metrics(scores, targets)
    assert metrics["positives"].tolist() == [1, 0, 0]
    assert metrics["negatives"].tolist() == [1, 1, 0]
    assert metrics["unknown"].tolist() == [0, 1, 2]
    for name in ("AP", "recall", "F1"):
        np.testing.assert_array_equal(metrics[name], [100, np.nan, np.nan])
    np.testing.assert_array_equal(metrics["precision"], [100, 0, 0])
    assert multilabel_metrics(scores, targets)["mAP"] == 100


def test_the_largest_object_decides_the_size_and_other_sizes_are_left_out():
    scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.5], [0.4]])
    targets = np.array([[1], [0], [1], [1], [-1], [1]])
    areas = np.array([[96**2], [0], [96**2 - 1], [32**2], [5], [32**2 - 1]])
    metrics = size_metrics(scores, targets, areas)
    # large: rank 1. medium: ranks 2 and 3 behind the one negative, 1/2 and 2/3. small: rank 2.
    expected = {"mAP_small": 50, "mAP_medium": 100 * (1 / 2 + 2 / 3) / 2, "mAP_large": 100}
    assert metrics == pytest.approx(expected)


def test_a_size_without_objects_has_no_map_and_labels_are_averaged():
    metrics = size_metrics([[0.9, 0.1], [0.5, 0.6]], [[1, 1], [0, 0]], [[10, 20], [0, 0]])
    assert metrics["mAP_small"] == 75
    assert np.isnan(metrics["mAP_medium"])
    assert np.isnan(metrics["mAP_large"])


@pytest.mark.parametrize("area", [0, np.nan, -1])
def test_a_positive_label_needs_an_area(area):
    with pytest.raises(ValueError, match=r"above 0 .* got .* for image 1, label 0 \(1 of 2 like it\)"):
        size_metrics([[0.9], [0.5]], [[1], [1]], [[50], [area]])
    with pytest.raises(ValueError, match=r"\(2, 1\), got \(1, 1\)"):
        size_metrics([[0.9], [0.5]], [[1], [1]], [[50]])


def test_the_random_baseline_is_the_map_of_equal_scores():
    _, targets = random_data(3)
    targets[:, 0] = 0
    equal = np.full(targets.shape, 0.5)
    assert random_baseline_map(targets) == pytest.approx(multilabel_metrics(equal, targets)["mAP"])
    assert np.isnan(random_baseline_map([[0]]))


@pytest.mark.parametrize("load", [False, True], ids=["class", "file"])
def test_streamed_batches_give_the_metrics_of_the_whole(load, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    if load:
        metric = evaluate.load(metric_module.__file__, cache_dir=str(tmp_path))
    else:
        metric = MultiLabelMetric(cache_dir=str(tmp_path))
    for seed, dtype in enumerate((np.float32, np.float64)):  # the second round begins anew
        scores, targets = (values.astype(dtype) for values in random_data(seed))
        for start in range(0, 40, 16):
            metric.add_batch(predictions=scores[start : start + 16], references=targets[start : start + 16])
        actual = metric.compute(threshold=0.3, top_k=2)
        assert actual == multilabel_metrics(scores, targets, threshold=0.3, top_k=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_metric_takes_what_a_model_gives(dtype, tmp_path):
    logits = torch.randn(4, 3, dtype=dtype, requires_grad=True)
    targets = torch.tensor([[1.0, 0, -1], [0, 1, 1]] * 2, dtype=dtype)
    metric = MultiLabelMetric(cache_dir=str(tmp_path), keep_in_memory=True)
    actual = metric.compute(predictions=logits.sigmoid(), references=targets)
    assert actual == multilabel_metrics(logits.sigmoid(), targets)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([[0.5]], [[1, 0]], r"\(1, 1\) and \(1, 2\)"),
        ([[3.2]], [[1]], "sigmoid.*3.2"),
        ([[0.5]], [[0.5]], "got 0.5"),
    ],
)
def test_wrong_input_is_one_clear_error(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        multilabel_metrics(scores, targets)


@pytest.mark.parametrize(
    "function",
    [
        multilabel_metrics,
        per_label_metrics,
        average_precision,
        fit_thresholds,
        best_label_order,
        lambda scores, targets: size_metrics(scores, targets, np.ones((2, 2))),
        lambda scores, targets: evaluate_scores(scores, targets, ["cat", "dog"]),
    ],
)
def test_nan_among_the_scores_names_the_first_image_and_label(function):
    with pytest.raises(ValueError, match=r"got NaN for image 1, label 0 \(1 of 4 like it\).*training diverged"):
        function([[0.5, 0.5], [np.nan, 0.5]], [[1, 0], [0, 1]])


def in_another_library(values, dtype):
    """The values as a tensor that wants gradients, or as an array of ml_dtypes."""
    if isinstance(dtype, torch.dtype):
        return torch.tensor(values, dtype=dtype, requires_grad=dtype.is_floating_point)
    return np.array(values).astype(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("target_dtype", [torch.int64, torch.bfloat16, torch.bool, ml_dtypes.bfloat16, np.int8])
def test_tensors_and_half_precision_give_the_metrics_of_their_values(dtype, target_dtype):
    scores, targets = random_data(5, levels=4, unknown=0)  # quarters are exact in every dtype
    given = in_another_library(scores, dtype), in_another_library(targets, target_dtype)
    assert multilabel_metrics(*given) == multilabel_metrics(scores, targets)
    areas = in_another_library(np.full(targets.shape, 2000), dtype)
    assert size_metrics(*given, areas)["mAP_medium"] == multilabel_metrics(scores, targets)["mAP"]
    assert fit_thresholds(*given) == fit_thresholds(scores, targets)
    assert random_baseline_map(given[1]) == random_baseline_map(targets)
    names = [f"label{i}" for i in range(6)]
    assert evaluate_scores(*given, names).to_dict() == evaluate_scores(scores, targets, names).to_dict()


@pytest.mark.parametrize(
    ("threshold", "message"), [([0.5], "or 2, one a label"), (50, "got 50"), ([0.5, np.nan], "got nan")]
)
def test_a_wrong_threshold_is_one_clear_error(threshold, message):
    with pytest.raises(ValueError, match=message):
        multilabel_metrics([[0.5, 0.5]], [[1, 0]], threshold=threshold)
