"""The compiled loops are built where there is a compiler, and PyTorch does their work where they are not."""

import ctypes
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from gkgnet_hf.modeling import group_knn, group_knn_cpu
from gkgnet_hf.modeling.group_knn import find_neighbors, max_relative, max_relative_reference
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


@pytest.fixture
def no_verdicts(monkeypatch):
    monkeypatch.setattr(group_knn, "_verdicts", {})


def solve(function):
    """A search, an aggregation or its gradient, whichever is asked for."""
    destinations, sources, neighbors = torch.randn(1, 1, 6, 5), torch.randn(1, 1, 9, 5), torch.randint(9, (1, 1, 6, 3))
    ranks = torch.randint(3, (1, 1, 6, 5), dtype=torch.uint8)
    operators = torch.ops.gkgnet
    return {
        group_knn._search: lambda: operators.find_neighbors(destinations, sources, 3, 2, None, None),
        group_knn._gather_max: lambda: operators.gather_max(sources, neighbors, False)[0],
        group_knn._scatter_max: lambda: operators.scatter_max(destinations, neighbors, ranks, 9),
    }[function]()


FUNCTIONS = [group_knn._search, group_knn._gather_max, group_knn._scatter_max]


def wrong(function):
    """A kernel whose result is a little wrong."""

    def kernel(*arguments):
        with group_knn.without_kernels():
            result = function(*arguments)
        values = result[0] if function is group_knn._gather_max else result
        values[-1, -1, -1, -1] = (values[-1, -1, -1, -1] + 1) % 9
        return result

    return kernel


def broken(*arguments):
    raise RuntimeError("Failed to find C compiler")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("make", "reason"), [(wrong, "finds another result"), (lambda f: broken, "no C compiler|Failed")]
)
def test_pytorch_takes_the_place_of_a_wrong_or_broken_kernel_with_one_warning(
    monkeypatch, no_verdicts, function, make, reason
):
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        patch.setenv("GKGNET_KERNELS", "off")
        expected = solve(function)
    kernel = make(function)
    monkeypatch.setattr(group_knn, "_kernels", lambda device_type: {function: kernel})
    torch.manual_seed(1)
    with pytest.warns(RuntimeWarning, match=reason):
        found = solve(function)
    assert torch.equal(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_kernel_that_is_insisted_on_fails_aloud(monkeypatch, function):
    monkeypatch.setenv("GKGNET_KERNELS", "on")
    monkeypatch.setattr(group_knn, "_kernels", lambda device_type: {function: broken})
    with pytest.raises(RuntimeError, match="Failed to find C compiler"):
        solve(function)
    monkeypatch.setattr(group_knn, "_kernels", lambda device_type: {})
    with pytest.raises(RuntimeError, match=r"GKGNET_KERNELS=on, but no kernel does .* with torch.float32 on cpu"):
        solve(function)


def test_kernels_are_tried_once_for_each_use(monkeypatch, no_verdicts):
    for _ in range(2):
        for function in FUNCTIONS:
            solve(function)
    assert len(group_knn._verdicts) == (3 if loops_take(torch.zeros(1)) else 0)
    assert all(group_knn._verdicts.values())


def test_threads_that_use_a_kernel_first_at_once_agree(no_verdicts):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(solve, FUNCTIONS * 16))
    assert all(group_knn._verdicts.values())


@pytest.mark.parametrize("setting", ["", "ON", "1", "yes"])
def test_another_setting_of_the_kernels_is_one_error(monkeypatch, setting):
    monkeypatch.setenv("GKGNET_KERNELS", setting)
    with pytest.raises(ValueError, match=f"GKGNET_KERNELS must be auto, on or off, got '{setting}'"):
        solve(group_knn._search)


@pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("cc"), reason="nothing to build it with")
def test_a_library_that_computes_something_else_does_not_go_unseen(monkeypatch, no_verdicts, tmp_path):
    """Such as one of a broken compiler: the loops of group_knn.c, but the maximum is a minimum."""
    shutil.copy(Path(group_knn.__file__).with_name("group_knn_search.h"), tmp_path)
    source = Path(group_knn.__file__).with_name("group_knn.c").read_text()
    assert source.count("row[j] <= values[j]") == 2
    (tmp_path / "wrong.c").write_text(source.replace("row[j] <= values[j]", "row[j] >= values[j]"))
    library = tmp_path / "wrong.so"
    subprocess.run(["cc", "-O1", "-fPIC", "-fopenmp", "-c", "wrong.c"], cwd=tmp_path, check=True)
    subprocess.run(["cc", "-shared", "wrong.o", "-o", library], cwd=tmp_path, check=True)
    monkeypatch.setattr(group_knn_cpu, "_library", lambda: ctypes.CDLL(str(library)))
    sources, neighbors = torch.randn(1, 1, 9, 5), torch.randint(9, (1, 1, 6, 3))
    with pytest.warns(RuntimeWarning, match="gather_max on cpu finds another result than PyTorch"):
        found = max_relative(torch.zeros(1, 1, 6, 5), sources, neighbors)
    assert torch.equal(found, max_relative_reference(torch.zeros(1, 1, 6, 5), sources, neighbors))
