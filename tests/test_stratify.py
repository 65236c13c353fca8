"""The rows that are held out have the labels of the others."""

import numpy as np
import pytest
from scipy import sparse

from gkgnet_hf.data.stratify import stratified_holdout


def random_labels(num_rows: int, num_labels: int, labels_per_row: float, seed: int = 0) -> sparse.csr_array:
    """Labels whose frequencies fall as 1 / rank; the number of labels of a row is Poisson distributed."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, num_labels + 1)
    rows = np.repeat(np.arange(num_rows), rng.poisson(labels_per_row, num_rows))
    columns = rng.choice(num_labels, size=len(rows), p=frequency / frequency.sum())
    dense = np.zeros((num_rows, num_labels), dtype=bool)
    dense[rows, columns] = True
    return sparse.csr_array(dense)


def paths(num_rows: int) -> list[str]:
    return [f"train/{row:06d}.jpg" for row in range(num_rows)]


@pytest.mark.parametrize(("num_rows", "num_labels", "labels_per_row"), [(5000, 80, 2.9), (2000, 300, 6), (997, 20, 1)])
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_each_label_has_its_share_within_rounding(num_rows, num_labels, labels_per_row, share):
    labels = random_labels(num_rows, num_labels, labels_per_row)
    held_out = stratified_holdout(labels, paths(num_rows), share)
    count = labels.sum(axis=0)
    error = np.abs(labels[held_out].sum(axis=0) - share * count)
    assert error.max() <= max(2, 0.02 * share * count.max())
    assert error[share * count >= 1].mean() <= 0.5


@pytest.mark.parametrize("num_rows", [5, 10, 33, 60, 1000])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_the_share_of_rows_is_met_within_rounding(num_rows, share):
    labels = random_labels(num_rows, 5, 1)
    held_out = stratified_holdout(labels, paths(num_rows), share)
    assert abs(held_out.sum() - max(1, share * num_rows)) <= 0.5 + 1e-9


def test_the_order_of_the_rows_changes_nothing():
    labels, keys = random_labels(500, 30, 2), paths(500)
    held_out = stratified_holdout(labels, keys)
    order = np.random.default_rng(1).permutation(500)
    shuffled = stratified_holdout(labels[order], [keys[row] for row in order])
    np.testing.assert_array_equal(shuffled, held_out[order])
    np.testing.assert_array_equal(stratified_holdout(labels, keys), held_out)


def test_another_seed_holds_out_other_rows():
    labels, keys = random_labels(500, 30, 2), paths(500)
    first, second = (stratified_holdout(labels, keys, seed=seed) for seed in (0, -1))
    assert first.sum() == second.sum()
    assert (first & ~second).any()


def test_values_and_explicit_zeros_do_not_matter():
    labels, keys = random_labels(300, 10, 2), paths(300)
    values = labels.astype(float) * 0.25
    values = sparse.csr_array(sparse.hstack([values[:, :9], values[:, 9:] * 0]))
    expected = labels.toarray()
    expected[:, 9] = False
    held_out = stratified_holdout(sparse.csr_array(expected), keys)
    np.testing.assert_array_equal(stratified_holdout(values, keys), held_out)


def test_rare_labels_are_on_both_sides_and_single_ones_in_training():
    rare = np.zeros((200, 12), dtype=bool)
    for label in range(6):
        rare[[label, label + 100], label] = True  # two rows each
        rare[50 + label, 6 + label] = True  # one row each
    labels = sparse.csr_array(np.hstack([rare, random_labels(200, 4, 2).toarray()]))
    for seed in range(5):
        held_out = stratified_holdout(labels, paths(200), seed=seed)
        assert held_out.sum() == 20
        np.testing.assert_array_equal(labels[held_out].sum(axis=0)[:12], [1] * 6 + [0] * 6)


def test_rare_labels_leave_half_of_the_held_out_rows_to_the_frequent_ones():
    rare = np.repeat(np.eye(500, dtype=bool), 2, axis=0)
    frequent = np.tile(np.eye(2, dtype=bool), (500, 1))
    labels = sparse.csr_array(sparse.block_diag([rare, frequent]))
    held_out = stratified_holdout(labels, paths(2000))
    assert held_out.sum() == 200
    counts = labels[held_out].sum(axis=0)
    assert counts[:500].max() == 1
    assert counts[500:].min() >= 25  # 50 each were their whole share


def test_the_share_is_met_even_if_every_row_has_a_label_of_its_own():
    labels = sparse.csr_array(sparse.hstack([sparse.eye_array(100), random_labels(100, 3, 2)]))
    held_out = stratified_holdout(labels, paths(100))
    assert held_out.sum() == 10
    assert (labels[~held_out].sum(axis=0)[100:] > 0).all()


def test_rows_without_labels_have_their_share():
    labels = sparse.csr_array(sparse.vstack([random_labels(300, 10, 3), sparse.csr_array((200, 10))]))
    held_out = stratified_holdout(labels, paths(500))
    assert 19 <= held_out[300:].sum() <= 21 + (labels[:300].sum(axis=1) == 0).sum() * 0.1 + 1
    nothing = stratified_holdout(sparse.csr_array((500, 10)), paths(500))
    assert nothing.sum() == 50


def test_rows_of_one_key_stay_together():
    labels = random_labels(1000, 20, 2)
    keys = [f"{row * 7919 % 300}" for row in range(1000)]
    held_out = stratified_holdout(labels, keys)
    of_key: dict[str, set[bool]] = {}
    for key, side in zip(keys, held_out, strict=True):
        of_key.setdefault(key, set()).add(bool(side))
    assert all(len(sides) == 1 for sides in of_key.values())
    assert abs(held_out.sum() - 100) <= 4  # three or four rows a key


def test_both_sides_have_rows_whatever_the_keys():
    assert stratified_holdout(sparse.csr_array((2, 1)), ["a", "b"]).sum() == 1
    assert stratified_holdout(sparse.csr_array(np.ones((2, 1))), ["a", "b"], share=0.99).sum() == 1
    assert stratified_holdout(sparse.csr_array((9, 1)), ["a"] * 5 + ["b"] * 4).sum() == 4


def test_keys_of_any_characters_are_taken():
    assert stratified_holdout(sparse.csr_array((3, 1)), ["Bäume.jpg", "\udcff.jpg", ""]).sum() == 1


def test_impossible_requests_are_refused():
    labels = random_labels(10, 2, 1)
    with pytest.raises(ValueError, match="share must be above 0 and below 1, got 1"):
        stratified_holdout(labels, paths(10), share=1)
    with pytest.raises(ValueError, match="a key for each of the 10 rows, got 9"):
        stratified_holdout(labels, paths(9))
    with pytest.raises(ValueError, match="two different keys"):
        stratified_holdout(labels, ["photos.zip"] * 10)
