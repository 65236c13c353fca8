"""The operators of the graph against random problems, hostile calls and sanitizers. `pytest -s` shows the counts."""

import collections
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gkgnet_hf.modeling import group_knn
from gkgnet_hf.modeling.group_knn import FLOATS, find_neighbors, max_relative, max_relative_reference

from .hostile_operators import TARGETS

ROOT = Path(__file__).parents[2]


class Problem:
    """Features of random shape, dtype, memory layout and values, neighbours, and a position bias or none."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        batch, groups, dim = self.integer(1, 3), self.integer(1, 4), self.integer(1, 70)
        height, width = self.integer(1, 9), self.integer(1, 9)
        num_sources = self.integer(1, 200)
        self.num_neighbors, self.dilation = self.integer(1, 12), self.integer(1, 4)
        dtype = FLOATS[self.integer(0, 3)]
        self.destinations = self.laid_out(self.values(batch, groups, height * width, dim).to(dtype))
        self.sources = self.laid_out(self.values(batch, groups, num_sources, dim).to(dtype))
        shape = batch, groups, height * width, self.integer(1, 12)
        self.neighbors = self.laid_out(torch.randint(num_sources, shape, generator=self.generator))
        self.bias = None
        if self.integer(0, 1):
            self.bias = self.random(height, num_sources), self.random(width, num_sources)

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def values(self, *shape: int) -> torch.Tensor:
        """Random numbers, in most cases with some that need care."""
        values = self.random(*shape)
        kind = self.integer(0, 8)
        if kind in (0, 1):
            return values
        if kind == 2:  # ties
            return values[:, :, :1].expand(shape).contiguous() if self.integer(0, 1) else values.sign()
        special = [torch.nan, torch.inf, -torch.inf, 1e30, 1e-40, 0][kind - 3]
        places = torch.rand(shape[:3] if self.integer(0, 1) else shape, generator=self.generator) < 0.1
        values[places] = special
        return values

    def laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same tensor, or part of it over and over, in another memory layout."""
        kind = self.integer(0, 6)
        if kind == 0:
            return tensor.mT.contiguous().mT
        if kind == 1:
            return tensor.transpose(1, 2).contiguous().transpose(1, 2)
        if kind == 2:
            return tensor.repeat_interleave(2, -1)[..., ::2]
        if kind == 3:
            return F.pad(tensor, (3, 2, 1, 1))[:, :, 1:-1, 3:-2]
        if kind == 4:
            return tensor[:1].expand_as(tensor)
        if kind == 5:
            return tensor[:, :, :1].expand_as(tensor)
        return tensor


def scores_of(problem: Problem) -> torch.Tensor:
    """2 · cosine − bias in the search's dtype, NaN as the highest."""
    dtype = group_knn.search_dtype(problem.destinations)
    queries, keys = (F.normalize(x.to(dtype), dim=-1) for x in (problem.destinations, problem.sources))
    scores = 2 * queries @ keys.mT
    if problem.bias is not None:
        scores = scores - (problem.bias[0][:, None] + problem.bias[1]).flatten(0, 1)
    return scores.masked_fill(scores.isnan(), torch.inf)


def check_search(problem: Problem) -> None:
    found = find_neighbors(problem.destinations, problem.sources, problem.num_neighbors, problem.dilation, problem.bias)
    scores = scores_of(problem)
    ranks = min(problem.num_neighbors * problem.dilation, scores.shape[3])
    expected = scores.topk(ranks).values[..., :: problem.dilation]
    assert ((found >= 0) & (found < scores.shape[3])).all()
    torch.testing.assert_close(scores.gather(3, found), expected, rtol=0, atol=1e-5)
    ordered = found.sort(-1).values
    assert (ordered[..., 1:] > ordered[..., :-1]).all()  # no source twice


def check_aggregation(problem: Problem) -> None:
    sources = problem.sources.detach().requires_grad_()
    result = max_relative(problem.destinations, sources, problem.neighbors)
    expected = max_relative_reference(problem.destinations, problem.sources, problem.neighbors)
    # Only with an infinite destination can the order matter: −inf − −inf is NaN for one edge, not for their maximum.
    finite = problem.destinations.isfinite()
    torch.testing.assert_close(result.detach()[finite], expected[finite], rtol=0, atol=0, equal_nan=True)
    gradient = problem.random(*result.shape).to(result.dtype)
    (found,) = torch.autograd.grad(result, sources, gradient)
    ranks = torch.ops.gkgnet.gather_max(problem.sources, problem.neighbors, True)[1]
    winners = problem.neighbors.gather(3, ranks.long())
    exact, most = (
        torch.zeros(found.shape, dtype=torch.float64).scatter_add(2, winners, x.double())
        for x in (gradient, gradient.abs())
    )
    assert ((found - exact).abs() <= 4 * torch.finfo(found.dtype).eps * most).all()
    ends = problem.sources.gather(2, winners)
    maxima = max_relative_reference(torch.zeros_like(result), problem.sources, problem.neighbors)
    torch.testing.assert_close(ends, maxima, rtol=0, atol=0, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_random_problems_are_solved_as_the_plain_functions_solve_them(monkeypatch, kernels, first):
    monkeypatch.setenv("GKGNET_KERNELS", kernels)
    for seed in range(first, first + 500):
        problem = Problem(seed)
        try:
            check_search(problem)
            check_aggregation(problem)
        except Exception as error:
            raise AssertionError(f"random problem {seed}") from error
    print(f"\n500 random problems from {first}, GKGNET_KERNELS={kernels}: 500 solved as the plain functions do")


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("target", TARGETS)
def test_no_call_ends_the_process_or_returns_what_is_wrong(target, kernels):
    environment = {**os.environ, "GKGNET_KERNELS": kernels}
    command = [sys.executable, "-m", "tests.robustness.hostile_operators", target]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} ended the process: {done.returncode} {done.stderr[-2000:]}"
    results = dict(line.rsplit(" → ", 1) for line in lines)
    counts = collections.Counter(results.values())
    print(f"\n{target}, GKGNET_KERNELS={kernels}: {len(results)} calls, {dict(counts)}")
    assert counts["wrong"] == 0, [name for name, result in results.items() if result == "wrong"]
    # What is no tensor of a known kind, or no 64-bit integer, does not reach the operators: PyTorch refuses it.
    strangers = ("nested", "None", "'x'", "[1.0]", "True", "1.5", "nan", str(2**64))
    for name, result in results.items():
        assert result in ("right", "ValueError") or name.endswith(strangers), f"{name} → {result}"
    assert counts["ValueError"] > 0.6 * len(results)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or not shutil.which("cc"), reason="no C compiler")
def test_the_compiled_loops_touch_no_memory_that_is_not_theirs(tmp_path):
    here, driver = Path(__file__).parent, tmp_path / "driver"
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }")
    if subprocess.run(["cc", *sanitize, "empty.c", "-o", "empty"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("the C compiler has no AddressSanitizer")
    modeling = Path(group_knn.__file__).parent
    command = [
        "cc",
        "-g",
        "-O1",
        "-fopenmp",
        *sanitize,
        "-I",
        modeling,
        here / "group_knn_driver.c",
        "-o",
        driver,
        "-lm",
    ]
    subprocess.run(command, check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    for seed in range(4):
        done = subprocess.run([driver, str(seed), "50"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        print(f"\nunder sanitizers, seed {seed}: {done.stdout.strip()}")


SPOILED = {
    "no dilation": lambda d, s, n: torch.ops.gkgnet.find_neighbors(d, s, 3, -1, None, None),
    "no neighbours": lambda d, s, n: torch.ops.gkgnet.gather_max(s, n[..., :0], True),
    "no sources": lambda d, s, n: torch.ops.gkgnet.gather_max(s[:, :, :0], n, True),
    "a bias of one dimension": lambda d, s, n: torch.ops.gkgnet.find_neighbors(d, s, 3, 1, s[0, 0, :, 0], s[0, 0]),
    "five dimensions": lambda d, s, n: torch.ops.gkgnet.gather_max(s, n[None], True),
    "other groups": lambda d, s, n: torch.ops.gkgnet.gather_max(s[:, :1], n, True),
    "ranks of another dtype": lambda d, s, n: torch.ops.gkgnet.scatter_max(d, n, torch.zeros_like(n), 9),
}


@pytest.mark.parametrize("name", SPOILED)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_shapes_are_checked_on_every_device(name, device):
    features = torch.randn(1, 2, 6, 5, device=device), torch.randn(1, 2, 9, 5, device=device)
    neighbors = torch.zeros(1, 2, 6, 3, dtype=torch.long, device=device)
    with pytest.raises(ValueError, match="must"):
        SPOILED[name](*features, neighbors)


@pytest.mark.parametrize(("batch", "num_destinations"), [(0, 6), (2, 0)])
@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_no_images_and_no_destinations_give_empty_results(monkeypatch, kernels, batch, num_destinations):
    monkeypatch.setenv("GKGNET_KERNELS", kernels)
    destinations, sources = torch.randn(batch, 2, num_destinations, 5), torch.randn(batch, 2, 9, 5, requires_grad=True)
    neighbors = find_neighbors(destinations, sources, 3, 2)
    assert neighbors.shape == (batch, 2, num_destinations, 3)
    result = max_relative(destinations, sources, neighbors)
    assert result.shape == destinations.shape
    result.sum().backward()
    assert torch.equal(sources.grad, torch.zeros(batch, 2, 9, 5))


@pytest.mark.slow
def test_a_compiled_and_an_exported_graph_take_any_sizes():
    def graph(destinations, sources):
        neighbors = torch.ops.gkgnet.find_neighbors(destinations, sources, 3, 2, None, None)
        return torch.ops.gkgnet.gather_max(sources, neighbors, True)[0] - destinations

    def problem(batch, num_destinations, num_sources):
        return torch.randn(batch, 2, num_destinations, 5), torch.randn(batch, 2, num_sources, 5)

    torch.compiler.reset()
    compiled = torch.compile(graph, dynamic=True, fullgraph=True, backend="aot_eager")
    batch, n, m = torch.export.Dim("batch"), torch.export.Dim("n"), torch.export.Dim("m", min=6)

    class Graph(torch.nn.Module):
        def forward(self, destinations, sources):
            return graph(destinations, sources)

    shapes = {"destinations": {0: batch, 2: n}, "sources": {0: batch, 2: m}}
    exported = torch.export.export(Graph(), problem(2, 6, 9), dynamic_shapes=shapes).module()
    for sizes in [(2, 6, 9), (3, 8, 20), (5, 4, 7)]:
        arguments = problem(*sizes)
        assert torch.equal(compiled(*arguments), graph(*arguments))
        assert torch.equal(exported(*arguments), graph(*arguments))
    assert math.prod(exported(*problem(3, 8, 20)).shape) == 3 * 2 * 8 * 5
