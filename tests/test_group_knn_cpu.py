"""The compiled loops are built where there is a compiler, and PyTorch does their work where they are not."""

import ctypes
import shutil
import sys

import pytest
import torch

from gkgnet_hf.modeling import group_knn_cpu
from gkgnet_hf.modeling.group_knn import find_neighbors, max_relative
from gkgnet_hf.modeling.group_knn_cpu import loops_take
from gkgnet_hf.modeling.vision_gnn import position_bias

from .test_group_knn import distances_to

BIAS = position_bias(torch.zeros(1, 80, 20, 24), 1)


def graph(num_neighbors=9):
    torch.manual_seed(0)
    destinations, sources = torch.randn(2, 2, 480, 40), torch.randn(2, 2, 480, 40)
    return destinations, sources, find_neighbors(destinations, sources, num_neighbors, bias=BIAS)


@pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("cc"), reason="nothing to build them with")
def test_they_are_built():
    assert loops_take(torch.zeros(1))
    assert loops_take(torch.zeros(1, dtype=torch.bfloat16))
    assert not loops_take(torch.zeros(1, dtype=torch.float64))
    assert not loops_take(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("num_neighbors", [9, 27, 100, 400])  # few and many candidates
def test_with_and_without_them_neighbors_and_messages_are_the_same(monkeypatch, num_neighbors):
    destinations, sources, neighbors = graph(num_neighbors)
    messages = max_relative(destinations, sources, neighbors)
    distances = distances_to(neighbors, destinations, sources, BIAS)
    monkeypatch.setenv("GKGNET_KERNELS", "off")
    assert torch.equal(max_relative(destinations, sources, neighbors), messages)
    without = find_neighbors(destinations, sources, num_neighbors, bias=BIAS)  # near ties may change places
    torch.testing.assert_close(distances_to(without, destinations, sources, BIAS), distances, rtol=0, atol=2e-6)


def test_equal_scores_go_to_the_first_sources():
    sources = torch.ones(1, 1, 300, 4)
    if not loops_take(sources):
        pytest.skip("PyTorch takes any of them")
    assert find_neighbors(sources[:, :, :2], sources, 5).tolist() == [[[[0, 1, 2, 3, 4]] * 2]]


def test_the_number_of_threads_changes_nothing():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = graph()
        torch.set_num_threads(3)
        together = graph()
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[2], together[2])
    assert torch.equal(max_relative(*alone), max_relative(*together))


@pytest.mark.parametrize("index", [-1, 480])
def test_a_neighbor_that_is_no_source_is_an_error(index):
    destinations, sources, neighbors = graph()
    neighbors[1, 1, 7, 3] = index
    with pytest.raises(ValueError, match="indices of 480 sources"):
        max_relative(destinations, sources, neighbors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_bias_of_another_dtype_is_converted(dtype):
    destinations, sources, _ = graph()
    bias = tuple(table.to(dtype) for table in BIAS)
    found = find_neighbors(destinations, sources, 9, bias=bias)
    expected = find_neighbors(destinations, sources, 9, bias=tuple(table.float() for table in bias))
    assert torch.equal(found, expected)


def test_a_bias_or_neighbors_of_another_shape_are_an_error():
    destinations, sources, neighbors = graph()
    with pytest.raises(ValueError, match=r"with H·W = 480, got \(20, 480\) and \(23, 480\)"):
        find_neighbors(destinations, sources, 9, bias=(BIAS[0], BIAS[1][1:]))
    with pytest.raises(ValueError, match="must be int64"):
        max_relative(destinations, sources, neighbors.int())
    with pytest.raises(ValueError, match="must be int64"):
        max_relative(destinations, sources, neighbors[:1])


def test_a_library_that_cannot_be_loaded_is_as_if_there_were_none(monkeypatch):
    def fail(path):
        raise OSError(f"{path}: undefined symbol: GOMP_parallel")

    group_knn_cpu._library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", fail)
        assert not loops_take(torch.zeros(1))
        assert graph()[2].shape == (2, 2, 480, 9)
    group_knn_cpu._library.cache_clear()
