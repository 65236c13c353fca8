"""The Triton kernels are held against the reference functions, by tests/test_triton.py: on a GPU, or in Triton's
interpreter on CPU.

python -m pytest tests/interpreted.py
TRITON_INTERPRET=1 python -m pytest tests/interpreted.py
"""

import os

import pytest
import torch
import triton
import triton.language as tl

from gkgnet_hf.modeling import group_knn
from gkgnet_hf.modeling.group_knn import find_neighbors_reference, max_relative_reference
from gkgnet_hf.modeling.group_knn_triton import gather_max, scatter_max
from gkgnet_hf.modeling.vision_gnn import position_bias

from .test_group_knn import distances_to

search = group_knn._triton_kernels()[group_knn._search]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def _device():
    with torch.device("cpu" if INTERPRETED else "cuda"):
        yield


def graph(batch, groups, height, width, ratio, dim, dtype=torch.float32, biased=True):
    """Destinations and sources of a grid and its position bias."""
    torch.manual_seed(0)
    destinations = torch.randn(batch, groups, height * width, dim).to(dtype)
    sources = torch.randn(batch, groups, (height // ratio) * (width // ratio), dim).to(dtype)
    bias = position_bias(torch.zeros(1, 4 * groups, height, width), ratio) if biased else None
    return destinations, sources, bias


def assert_finds_the_reference_neighbors(destinations, sources, num_neighbors, dilation, bias):
    found = search(destinations, sources, num_neighbors, dilation, *(bias or (None, None)))
    expected = find_neighbors_reference(destinations, sources, num_neighbors, dilation, bias)
    assert found.shape == expected.shape
    assert found.dtype == torch.int64
    # Sources that are nearer to each other than rounding may change places, others may not.
    ends = destinations.float(), sources.float(), bias
    torch.testing.assert_close(distances_to(found, *ends), distances_to(expected, *ends), rtol=0, atol=1e-5)
    if dilation == 1:
        ordered = found.sort(-1).values
        assert (ordered[..., 1:] > ordered[..., :-1]).all()


@pytest.mark.parametrize(
    ("shape", "num_neighbors", "dilation", "biased"),
    [
        ((1, 2, 7, 10, 1, 24), 9, 1, True),  # N = M = 70, no multiple of a tile
        ((2, 2, 8, 6, 2, 40), 9, 1, True),  # M = 12
        ((1, 1, 9, 4, 1, 80), 9, 2, True),
        ((1, 1, 8, 16, 1, 48), 9, 3, False),  # K·d = 27, whole tiles
        ((1, 1, 7, 9, 1, 96), 9, 5, True),  # K·d = 45
        ((1, 1, 5, 9, 1, 200), 9, 3, False),
        ((2, 1, 4, 5, 1, 320), 9, 3, True),  # M = 20 < K·d
        ((1, 1, 1, 3, 1, 320), 9, 2, True),
        ((1, 1, 1, 1, 1, 24), 1, 1, False),
        ((1, 1, 9, 8, 1, 3), 64, 1, True),  # more neighbours than any network of the paper has
    ],
)
def test_search_finds_what_the_reference_search_finds(shape, num_neighbors, dilation, biased):
    destinations, sources, bias = graph(*shape, biased=biased)
    assert_finds_the_reference_neighbors(destinations, sources, num_neighbors, dilation, bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_ranked_in_float32(dtype):
    destinations, sources, bias = graph(1, 1, 6, 5, 1, 40, dtype)
    assert_finds_the_reference_neighbors(destinations, sources, 9, 1, bias)
    assert_finds_the_reference_neighbors(destinations.float(), sources, 9, 2, bias)


def test_few_destinations_share_the_sources_out_and_lose_none():
    labels, patches = torch.randn(2, 1, 5, 24), torch.randn(2, 1, 777, 24)
    assert_finds_the_reference_neighbors(labels, patches, 9, 1, None)


def test_any_memory_layout_will_do():
    destinations, sources, bias = graph(2, 2, 3, 4, 1, 24)
    channels_first = [x.mT.contiguous().mT for x in (destinations, sources)]
    channels_last = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (destinations, sources)]
    neighbors = search(destinations, sources, 9, 1, *bias)
    values, ranks = gather_max(sources, neighbors, True)
    to_sources = scatter_max(destinations, neighbors, ranks, 12)
    transposed = [table.mT.contiguous().mT for table in bias]
    for other_destinations, other_sources in (channels_first, channels_last):
        assert torch.equal(search(other_destinations, other_sources, 9, 1, *transposed), neighbors)
        assert torch.equal(gather_max(other_sources, neighbors.mT.contiguous().mT, False)[0], values)
        torch.testing.assert_close(scatter_max(other_destinations, neighbors, ranks, 12), to_sources)


def test_of_equal_sources_the_first_come_first():
    sources = torch.ones(1, 1, 100, 24)
    axes = torch.eye(3, 24).view(1, 1, 3, 24)  # products of one term, so that no order of summation makes them differ
    neighbors = search(axes, sources, 9, 1, None, None)
    assert neighbors.tolist() == [[[list(range(9))] * 3]]
    assert torch.equal(search(torch.zeros(1, 1, 3, 24), sources, 9, 1, None, None), neighbors)


def test_nan_is_nearest_and_never_out_of_range():
    destinations, sources, bias = graph(1, 2, 5, 6, 1, 24)
    destinations[0, 0, 2, 1] = torch.nan
    sources[0, 1, 4] = torch.nan
    neighbors = search(destinations, sources, 9, 1, *bias)
    assert ((neighbors >= 0) & (neighbors < 30)).all()
    assert (neighbors[0, 1, :, 0] == 4).all()
    assert gather_max(sources, neighbors, True)[0][0, 1].isnan().all()
    sources[:] = torch.inf
    neighbors = search(destinations, sources, 9, 2, *bias)
    assert ((neighbors >= 0) & (neighbors < 30)).all()


@pytest.mark.parametrize(
    ("dim", "dtype"),
    [(24, torch.float32), (40, torch.float16), (200, torch.float32), (320, torch.float32), (80, torch.bfloat16)],
)
def test_aggregation_and_its_gradient_are_those_of_the_reference(dim, dtype):
    destinations, sources, bias = graph(2, 2, 3, 5, 1, dim, dtype)
    neighbors = find_neighbors_reference(destinations, sources, 9, 1, bias)
    leaf = sources.clone().requires_grad_()
    expected = max_relative_reference(torch.zeros_like(destinations), leaf, neighbors)
    values, ranks = gather_max(sources, neighbors, True)
    assert torch.equal(values, expected)
    assert torch.equal(gather_max(sources, neighbors, False)[0], values)
    in_pytorch = group_knn._gather_max(sources, neighbors, True)
    assert torch.equal(ranks, in_pytorch[1])
    assert ranks.dtype == in_pytorch[1].dtype == torch.uint8
    assert values.stride() == ranks.stride() == in_pytorch[0].stride() == in_pytorch[1].stride()
    assert torch.equal(sources.gather(2, neighbors.gather(3, ranks.long())), values)

    grad = torch.randn_like(values)
    result = scatter_max(grad, neighbors, ranks, sources.shape[2])
    assert result.dtype == dtype
    assert result.stride() == group_knn._scatter_max(grad, neighbors, ranks, sources.shape[2]).stride()
    (to_sources,) = torch.autograd.grad(expected, leaf, grad)
    if dtype == torch.float32:
        torch.testing.assert_close(result, to_sources)
    # The kernel adds up in float32, whatever the dtype.
    exact = group_knn._scatter_max(grad.double(), neighbors, ranks, sources.shape[2])
    torch.testing.assert_close(result.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=1e-5)


def test_between_equals_the_nearest_wins_and_nan_beats_all():
    sources = torch.tensor([[1.0, 2, 5], [3, 2, torch.nan], [3, 2, torch.nan]]).view(1, 1, 3, 3)
    neighbors = torch.tensor([[[[0, 1, 2]]]])
    values, ranks = gather_max(sources, neighbors, True)
    assert values[0, 0, 0, :2].tolist() == [3, 2]
    assert values[0, 0, 0, 2].isnan()
    assert ranks.tolist() == [[[[1, 0, 1]]]] == group_knn._gather_max(sources, neighbors, True)[1].tolist()


def test_a_neighbor_that_is_no_source_gives_nan_and_gets_no_gradient():
    sources, _, _ = graph(1, 2, 3, 2, 1, 5)
    neighbors = torch.tensor([0, 1, 5, 6, -1, 2**40, -(2**40), 3]).view(1, 1, 4, 2).repeat(1, 2, 1, 1)
    values, ranks = gather_max(sources, neighbors, True)
    assert values.isnan().all(-1).tolist() == [[[False, True, True, True]] * 2]
    gradient = scatter_max(torch.ones(1, 2, 4, 5), neighbors, ranks, 6)
    assert gradient.sum().item() == 2 * 5  # of the first destination alone
    gradient = scatter_max(torch.ones(1, 2, 4, 5), neighbors.clamp(0, 5), torch.full_like(ranks, 2), 6)
    assert gradient.sum().item() == 0


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The kernels take the CPU's tensors → what they were called for."""
    names = {group_knn._search: "search", group_knn._gather_max: "gather_max", group_knn._scatter_max: "scatter_max"}
    calls = []

    def counted(function, kernel):
        def count(*arguments):
            calls.append(names[function])
            return kernel(*arguments)

        return count

    kernels = {function: counted(function, kernel) for function, kernel in group_knn._triton_kernels().items()}
    monkeypatch.setattr(group_knn, "_kernels", lambda device_type: kernels)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_pass_the_trial_of_their_first_use(as_on_a_gpu, dtype):
    destinations, sources, bias = graph(1, 1, 4, 4, 1, 24, dtype)
    neighbors = group_knn.find_neighbors(destinations, sources, 3, 2, bias)
    assert as_on_a_gpu == ["search", "search"]  # the trial, then the network's
    group_knn.find_neighbors(destinations, sources, 3, 2, bias)
    group_knn.max_relative(destinations, sources.requires_grad_(), neighbors).sum().backward()
    assert as_on_a_gpu == ["search"] * 3 + ["gather_max"] * 2 + ["scatter_max"] * 2


@pytest.mark.skipif(not INTERPRETED, reason="a kernel that is compiled keeps the functions it calls")
@pytest.mark.parametrize("name", ["_inverse_norm", "_keep_best", "_insert"])
def test_a_wrong_kernel_does_not_go_unseen(as_on_a_gpu, monkeypatch, name):
    from gkgnet_hf.modeling import group_knn_triton

    wrong = {"_inverse_norm": wrong_norm, "_keep_best": wrong_list, "_insert": wrong_place}[name]
    monkeypatch.setattr(group_knn_triton, name, wrong)
    destinations, sources, bias = graph(1, 1, 4, 4, 1, 24)
    with pytest.warns(RuntimeWarning, match="search on cpu finds another result than PyTorch"):
        found = group_knn.find_neighbors(destinations, sources, 3, 1, bias)
    assert torch.equal(found, find_neighbors_reference(destinations, sources, 3, 1, bias))
    assert as_on_a_gpu == ["search"]
    group_knn.find_neighbors(destinations, sources, 3, 1, bias)  # no further warning
    assert as_on_a_gpu == ["search"]


def wrong_norm(features):
    return features.float().square().sum(-1).reciprocal()


@triton.jit
def wrong_list(top, found, scores, indices, RANKS: tl.constexpr):
    return top, found


@triton.jit
def wrong_place(top, found, score, index, RANKS: tl.constexpr):
    better = score > top[0]
    return (tl.where(better, score, top[0]), *top[1:]), (tl.where(better, index, found[0]), *found[1:])


def test_double_precision_and_many_neighbors_are_left_to_pytorch(as_on_a_gpu, monkeypatch):
    destinations, sources, bias = graph(1, 1, 4, 4, 1, 24)
    group_knn.find_neighbors(destinations.double(), sources.double(), 3, 1, bias)
    group_knn.max_relative(destinations, sources, torch.zeros(1, 1, 16, 257, dtype=torch.long))
    monkeypatch.setenv("GKGNET_KERNELS", "off")
    group_knn.find_neighbors(destinations, sources, 3, 1, bias)
    assert as_on_a_gpu == []
