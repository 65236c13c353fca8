"""The compiled loops are built where there is a compiler, and PyTorch does their work where they are not."""

import ctypes
import itertools
import math
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

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


def available():
    return range(group_knn_cpu.instructions() + 1) if loops_take(torch.zeros(1)) else []


def search_with(monkeypatch, instructions, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr(group_knn_cpu, "instructions", lambda: instructions)
        return group_knn_cpu.search(*arguments)


# N, M, c, K, d, grid width (0: no bias): tails of tiles, panels and registers; more ranks than candidates can be kept
SEARCHES = [
    (1, 1, 1, 1, 1, 1),
    (7, 49, 7, 9, 1, 7),
    (31, 33, 31, 9, 2, 31),
    (33, 65, 33, 9, 1, 0),
    (63, 63, 63, 9, 3, 9),
    (65, 257, 32, 9, 1, 5),
    (300, 1296, 40, 9, 1, 30),
    (144, 144, 200, 9, 3, 12),
    (8, 3001, 65, 27, 2, 0),
    (12, 400, 16, 65, 1, 4),
    (5, 300, 8, 300, 1, 5),
]


def search_problem(num_destinations, num_sources, dim, num_neighbors, dilation, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(num_sources)

    def smooth(size):  # neighbouring nodes are alike, and strides are those of the network
        steps = torch.randn(2, size, 3, dim, generator=generator).cumsum(1)
        return (steps + 2 * torch.randn(3, dim, generator=generator)).to(dtype).transpose(1, 2)[:, :2]

    rows = columns = None
    if width:
        tables = torch.randn(num_destinations // width + width, num_sources, generator=generator) / 20
        rows, columns = tables.split([num_destinations // width, width])
    return smooth(num_destinations), smooth(num_sources), num_neighbors, dilation, rows, columns


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SEARCHES, ids=str)
def test_every_instruction_set_finds_the_neighbors_of_float64(monkeypatch, sizes, dtype):
    destinations, sources, num_neighbors, dilation, rows, columns = search_problem(*sizes, dtype)
    queries, keys = (F.normalize(x.double(), dim=-1) for x in (destinations, sources))
    scores = 2 * queries @ keys.mT
    if rows is not None:
        scores = scores - (rows.double()[:, None] + columns.double()).flatten(0, 1)
    ranks = min(num_neighbors * dilation, sources.shape[2])
    ranked, order = scores.sort(dim=-1, descending=True)
    gaps = F.pad(ranked[..., :-1] - ranked[..., 1:], (1, 1), value=1)
    clear = (torch.minimum(gaps[..., :-1], gaps[..., 1:]) > 4e-6)[..., :ranks:dilation]
    for instructions in available():
        found = search_with(monkeypatch, instructions, destinations, sources, num_neighbors, dilation, rows, columns)
        assert torch.equal(found[clear], order[..., :ranks:dilation][clear])
        torch.testing.assert_close(scores.gather(3, found), ranked[..., :ranks:dilation], rtol=0, atol=4e-6)


def test_bfloat16_products_never_change_the_choice_of_float32(monkeypatch):
    """Sources that differ by less than bfloat16 can tell, around the last rank, and some exactly equal ones."""
    if len(available()) <= group_knn_cpu.BFLOAT16_PRODUCTS:
        pytest.skip("no instruction multiplies bfloat16")
    torch.manual_seed(0)
    for dim, spread in itertools.product((40, 41, 200), (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)):
        centre = torch.randn(1, 2, 1, dim)
        sources = centre + spread * torch.randn(1, 2, 700, dim)
        sources[:, :, 500:] = sources[:, :, 200:400]
        destinations = centre + 0.5 * torch.randn(1, 2, 96, dim)
        for scale in (0, spread**2, 1e-3):
            rows, columns = scale * torch.randn(8, 700), scale * torch.randn(12, 700)
            for num_neighbors in (1, 9, 27):
                arguments = destinations, sources, num_neighbors, 1, rows, columns
                found = search_with(monkeypatch, 3, *arguments)
                assert torch.equal(found, search_with(monkeypatch, 2, *arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf, 1e-30, 1e-10, 1e15, 1e30])
def test_numbers_without_a_direction_are_searched_as_in_pytorch(monkeypatch, value, dtype):
    destinations, sources, num_neighbors, _, rows, columns = search_problem(300, 400, 40, 9, 1, 30, dtype)
    destinations, sources = destinations.contiguous(), sources.contiguous()
    if abs(value) in (1e-30, 1e-10, 1e15, 1e30):
        destinations[:, :, ::3] *= value
        sources[:, :, ::5] *= value
    else:
        destinations[:, :, ::3] = value
        sources[:, :, ::50, 2] = value
    for tables in ((rows, columns), (None, None)):
        arguments = destinations, sources, num_neighbors, 1, *tables
        scores = 2 * F.normalize(destinations.float(), dim=-1) @ F.normalize(sources.float(), dim=-1).mT
        if tables[0] is not None:
            scores = scores - (rows[:, None] + columns).flatten(0, 1)
        scores = scores.nan_to_num(nan=9, neginf=-9)
        expected = scores.topk(num_neighbors).values
        for instructions in available():
            found = search_with(monkeypatch, instructions, *arguments)
            torch.testing.assert_close(scores.gather(3, found), expected, rtol=0, atol=2e-6)
            ordered = found.sort(-1).values
            assert (ordered[..., 1:] > ordered[..., :-1]).all()


@pytest.mark.parametrize("sizes", SEARCHES, ids=str)
def test_neither_instructions_nor_threads_change_a_search(monkeypatch, sizes):
    """Not even between equal scores. Only processors without fused multiply-adds may round otherwise."""
    arguments = search_problem(*sizes)
    arguments[1][:, :, 1::2] = arguments[1][:, :, : arguments[1].shape[2] // 2]
    threads = torch.get_num_threads()
    for instructions in available()[1:]:
        expected = search_with(monkeypatch, 1, *arguments)
        try:
            for count in (1, 2, 3, 8):
                torch.set_num_threads(count)
                assert torch.equal(search_with(monkeypatch, instructions, *arguments), expected)
        finally:
            torch.set_num_threads(threads)


def test_a_batch_is_searched_as_its_images_are(monkeypatch):
    """Also where the packed sources of all do not fit into memory at once."""
    destinations, sources = torch.randn(3, 2, 10, 300), torch.randn(3, 2, 9000, 300)
    for instructions in available():
        together = search_with(monkeypatch, instructions, destinations, sources, 5, 1, None, None)
        for i in range(3):
            alone = search_with(
                monkeypatch, instructions, destinations[i : i + 1], sources[i : i + 1], 5, 1, None, None
            )
            assert torch.equal(together[i : i + 1], alone)


def test_a_search_without_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(group_knn_cpu, "_call", lambda name, *arguments: 1)
    with pytest.raises(MemoryError, match="No memory to search 5 sources of 3 channels"):
        group_knn_cpu.search(torch.randn(1, 1, 4, 3), torch.randn(1, 1, 5, 3), 2, 1, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 16, 40, 65, 200])
def test_maxima_and_their_gradients_keep_their_dtype_and_are_those_of_pytorch(dim, dtype):
    torch.manual_seed(dim)
    sources = torch.randn(2, 60, 3, dim).to(dtype).transpose(1, 2)  # strides of the network
    sources[0, :, ::7] = math.nan
    sources[1, :, ::5], sources[1, 0, 1] = 0.0, -math.inf
    neighbors = torch.randint(60, (2, 3, 100, 9))
    grad = torch.randn(2, 100, 3, dim).to(dtype).transpose(1, 2)
    values, ranks = torch.ops.gkgnet.gather_max(sources, neighbors, True)
    gradients = torch.ops.gkgnet.scatter_max(grad, neighbors, ranks, 60)
    with group_knn.without_kernels():
        expected, expected_ranks = group_knn._gather_max(sources, neighbors, True)
        expected_gradients = group_knn._scatter_max(grad, neighbors, ranks, 60)
    assert values.dtype == gradients.dtype == dtype
    assert torch.equal(ranks, expected_ranks)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(gradients, expected_gradients, rtol=torch.finfo(dtype).eps, atol=1e-6)
    assert torch.equal(torch.ops.gkgnet.gather_max(sources, neighbors, False)[0].nan_to_num(7), values.nan_to_num(7))


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
    assert source.count("value <= values[j]") == 1
    (tmp_path / "wrong.c").write_text(source.replace("value <= values[j]", "value >= values[j]"))
    library = tmp_path / "wrong.so"
    subprocess.run(["cc", "-O1", "-fPIC", "-fopenmp", "-c", "wrong.c"], cwd=tmp_path, check=True)
    subprocess.run(["cc", "-shared", "wrong.o", "-o", library], cwd=tmp_path, check=True)
    monkeypatch.setattr(group_knn_cpu, "_library", lambda: ctypes.CDLL(str(library)))
    sources, neighbors = torch.randn(1, 1, 9, 5), torch.randint(9, (1, 1, 6, 3))
    with pytest.warns(RuntimeWarning, match="gather_max on cpu finds another result than PyTorch"):
        found = max_relative(torch.zeros(1, 1, 6, 5), sources, neighbors)
    assert torch.equal(found, max_relative_reference(torch.zeros(1, 1, 6, 5), sources, neighbors))
