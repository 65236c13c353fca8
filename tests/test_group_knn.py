"""The default path of search and aggregation is held against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from gkgnet_hf.modeling import group_knn
from gkgnet_hf.modeling.group_knn import find_neighbors, find_neighbors_reference, max_relative, max_relative_reference
from gkgnet_hf.modeling.vision_gnn import position_bias


@st.composite
def graphs(draw):
    """(destinations, sources, K, d, bias): random, some with ties, zero vectors, one source, few sources."""
    batch, groups, dim = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 12))
    height, width, ratio = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.sampled_from([1, 2]))
    ratio = min(ratio, height, width)
    num_sources = (height // ratio) * (width // ratio)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    destinations = torch.randn(batch, groups, height * width, dim, generator=generator, dtype=dtype)
    sources = torch.randn(batch, groups, num_sources, dim, generator=generator, dtype=dtype)
    kind = draw(st.sampled_from(["random", "ties", "zeros"]))
    if kind == "ties":
        sources = sources[:, :, :1].expand_as(sources).contiguous()
    elif kind == "zeros":
        destinations[:, :, ::2] = 0
        sources[:, :, ::3] = 0
    bias = None
    if draw(st.booleans()):
        bias = position_bias(torch.zeros(1, 4 * groups, height, width, dtype=dtype), ratio)
    return destinations, sources, draw(st.integers(1, 12)), draw(st.integers(1, 3)), bias


def distances_to(neighbors, destinations, sources, bias):
    cosine = torch.nn.functional.normalize(destinations, dim=-1) @ torch.nn.functional.normalize(sources, dim=-1).mT
    distance = 2 - 2 * cosine
    if bias is not None:
        distance = distance + (bias[0][:, None] + bias[1]).flatten(0, 1)
    return distance.gather(-1, neighbors)


@settings(deadline=None, max_examples=150)
@given(graph=graphs(), piece=st.sampled_from([1, 50, 1 << 21]), kernels=st.sampled_from(["auto", "off"]))
def test_search_finds_what_the_reference_search_finds(graph, piece, kernels):
    destinations, sources, num_neighbors, dilation, bias = graph
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_knn, "CPU_PIECE", piece)
        patch.setenv("GKGNET_KERNELS", kernels)
        found = find_neighbors(destinations, sources, num_neighbors, dilation, bias)
    expected = find_neighbors_reference(destinations, sources, num_neighbors, dilation, bias)
    assert found.shape == expected.shape
    # Which of several sources at the same distance is taken is open; how far each rank is, is not.
    tolerance = 1e-12 if destinations.dtype == torch.float64 else 2e-6
    torch.testing.assert_close(
        distances_to(found, destinations, sources, bias),
        distances_to(expected, destinations, sources, bias),
        rtol=0,
        atol=tolerance,
    )
    if dilation == 1:  # no source twice
        ordered = found.sort(-1).values
        assert (ordered[..., 1:] > ordered[..., :-1]).all()


@settings(deadline=None, max_examples=100)
@given(graph=graphs())
def test_aggregation_and_its_gradient_are_those_of_the_reference(graph):
    destinations, sources, num_neighbors, dilation, bias = graph
    neighbors = find_neighbors(destinations, sources, num_neighbors, dilation, bias)
    gradients = []
    for function in (max_relative, max_relative_reference):
        leaves = [destinations.clone().requires_grad_(), sources.clone().requires_grad_()]
        result = function(*leaves, neighbors)
        (result * torch.arange(result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
        gradients.append((result.detach(), leaves[0].grad, leaves[1].grad))
    with torch.no_grad():
        assert torch.equal(max_relative(destinations, sources, neighbors), gradients[0][0])
    (default, to_destinations, to_sources), (reference, reference_to_destinations, reference_to_sources) = gradients
    assert torch.allclose(default, reference, atol=1e-6)
    assert torch.equal(to_destinations, reference_to_destinations)
    # Between equal sources either may be the winner: compare what arrives over all of them.
    torch.testing.assert_close(to_sources.sum(2), reference_to_sources.sum(2))
    if sources.unique(dim=2).shape[2] == sources.shape[2] and sources.all():
        torch.testing.assert_close(to_sources, reference_to_sources)


def test_dilation_keeps_every_dth_rank():
    destinations, sources = torch.randn(1, 1, 5, 4), torch.randn(1, 1, 40, 4)
    every = find_neighbors(destinations, sources, num_neighbors=27)
    assert torch.equal(find_neighbors(destinations, sources, num_neighbors=9, dilation=3), every[..., ::3])


def test_fewer_sources_than_ranks_leave_the_ranks_that_exist():
    destinations, sources = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 7, 4)
    assert find_neighbors(destinations, sources, num_neighbors=9, dilation=3).shape == (2, 2, 5, 3)
    assert find_neighbors(destinations, sources[:, :, :1], num_neighbors=9, dilation=3).shape == (2, 2, 5, 1)


def test_nan_goes_through_without_a_crash():
    destinations, sources = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    destinations[0, 0, 2, 1] = torch.nan
    neighbors = find_neighbors(destinations, sources, num_neighbors=3)
    for leaf in (sources, sources.clone().requires_grad_()):
        result = max_relative(destinations, leaf, neighbors)
        assert result[0, 0, 2, 1].isnan()
        assert not result[0, 1].isnan().any()
    sources[0, 1, 4] = torch.nan
    for search in (find_neighbors, find_neighbors_reference):
        neighbors = search(destinations, sources, num_neighbors=3)
        assert (neighbors[0, 1] == 4).any(-1).all()
        for leaf in (sources, sources.clone().requires_grad_()):
            for aggregate in (max_relative, max_relative_reference):
                assert aggregate(destinations, leaf, neighbors)[0, 1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_ranked_in_float32(dtype):
    destinations, sources = torch.randn(1, 2, 50, 16).to(dtype), torch.randn(1, 2, 60, 16).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = find_neighbors(destinations, sources, 9)
    assert torch.equal(found, find_neighbors(destinations.float(), sources.float(), 9))


def test_no_piece_is_larger_than_the_budget():
    budget, rows, row_size = group_knn.CPU_PIECE, 144, 144 * 1296
    pieces = list(group_knn._pieces(4, rows, row_size, budget))
    assert len(pieces) > 4
    for items, first, last in pieces:
        assert (items.stop - items.start) * (last - first) * row_size <= budget
    covered = sum((min(items.stop, 4) - items.start) * (last - first) for items, first, last in pieces)
    assert covered == 4 * rows


def test_search_and_aggregation_are_well_formed_custom_ops():
    rows, columns = position_bias(torch.zeros(1, 8, 3, 4), 1)
    features = torch.randn(2, 2, 12, 4, requires_grad=True)
    neighbors = torch.randint(12, (2, 2, 7, 3))
    values, ranks = torch.ops.gkgnet.gather_max(features, neighbors, True)
    for op, arguments in (
        (torch.ops.gkgnet.find_neighbors, (torch.randn(2, 2, 12, 4), torch.randn(2, 2, 12, 4), 3, 2, rows, columns)),
        (torch.ops.gkgnet.gather_max, (features, neighbors, True)),
        (torch.ops.gkgnet.gather_max, (features.detach(), neighbors, False)),
        (torch.ops.gkgnet.scatter_max, (values.detach().requires_grad_(), neighbors, ranks, 12)),
    ):
        assert set(torch.library.opcheck(op, arguments).values()) == {"SUCCESS"}


def test_gradients_of_the_aggregation_have_gradients():
    sources = torch.randn(1, 2, 6, 3, dtype=torch.float64, requires_grad=True)
    destinations = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    neighbors = find_neighbors(destinations.detach(), sources.detach(), num_neighbors=3)
    assert torch.autograd.gradcheck(max_relative, (destinations, sources, neighbors))
    assert torch.autograd.gradgradcheck(lambda *ends: max_relative(*ends, neighbors) ** 2, (destinations, sources))


FORWARD = {
    "torch.func.jvp": lambda f, x, t: torch.func.jvp(f, x, t)[1],
    "dual tensors": lambda f, x, t: dual_tangent(f, x, t),
    "dual tensors that need gradients": lambda f, x, t: dual_tangent(f, [y.clone().requires_grad_() for y in x], t),
    "torch.func.jacfwd": lambda f, x, t: torch.func.jacfwd(f, argnums=1)(*x),
    "torch.func.jacrev": lambda f, x, t: torch.func.jacrev(f, argnums=1)(*x),
    "torch.func.hessian": lambda f, x, t: torch.func.hessian(lambda *y: (f(*y) ** 3).sum(), argnums=1)(*x),
    "torch.func.grad": lambda f, x, t: torch.func.grad(lambda *y: (f(*y) ** 3).sum(), argnums=1)(*x),
    "torch.func.vmap of a jvp": lambda f, x, t: torch.func.vmap(lambda *s: torch.func.jvp(f, x, s)[1])(
        *(y.expand(2, *y.shape) for y in t)
    ),
    "compiled jvp": lambda f, x, t: torch.compile(
        lambda *y: torch.func.jvp(f, y, t)[1], fullgraph=True, backend="aot_eager"
    )(*x),
}


def dual_tangent(function, inputs, tangents):
    with forward_ad.dual_level():
        result = function(*(forward_ad.make_dual(x, t) for x, t in zip(inputs, tangents, strict=True)))
        return forward_ad.unpack_dual(result).tangent


@pytest.mark.filterwarnings("ignore:.*performance drop")
@pytest.mark.parametrize("derivative", FORWARD)
def test_forward_mode_and_functional_derivatives_are_those_of_the_reference(derivative):
    ends = tuple(torch.randn(1, 2, n, 3, dtype=torch.float64) for n in (4, 6))
    tangents = tuple(torch.randn_like(end) for end in ends)
    neighbors = find_neighbors(*ends, num_neighbors=3)
    found, expected = (
        FORWARD[derivative](lambda *x, f=function: f(*x, neighbors), ends, tangents)
        for function in (max_relative, max_relative_reference)
    )
    torch.testing.assert_close(found, expected)


def test_an_operator_without_a_forward_mode_derivative_says_so():
    sources, neighbors = torch.randn(1, 1, 4, 3), torch.zeros(1, 1, 2, 1, dtype=torch.long)
    gather = torch.ops.gkgnet.gather_max
    with pytest.raises(NotImplementedError, match="max_relative has"):
        torch.func.jvp(lambda x: gather(x, neighbors, True)[0], (sources,), (sources,))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="max_relative has"):
        gather(forward_ad.make_dual(sources, sources), neighbors, True)
    gradient = torch.randn(1, 1, 2, 3)
    values, ranks = gather(sources, neighbors, True)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="max_relative has"):
        torch.ops.gkgnet.scatter_max(forward_ad.make_dual(gradient, values), neighbors, ranks, 4)


def test_a_gradient_that_was_prepared_before_has_a_forward_mode_derivative():
    sources = torch.randn(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    destinations = torch.randn(1, 1, 2, 3, dtype=torch.float64)
    neighbors = find_neighbors(destinations, sources, 2)
    result = max_relative(destinations, sources, neighbors)
    tangent = torch.randn_like(result)
    (expected,) = torch.autograd.grad(result, sources, tangent, retain_graph=True)
    with forward_ad.dual_level():
        (gradient,) = torch.autograd.grad(result, sources, forward_ad.make_dual(torch.ones_like(result), tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(gradient).tangent, expected)
