"""The Triton kernels, as far as they can be tested without a GPU; tests/test_device.py runs them on one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from packaging.version import Version

triton = pytest.importorskip("triton", reason="torch brings Triton on Linux only")

WITHOUT_TRITON = """
import sys

sys.modules["triton"] = None
import torch
import gkgnet_hf
from gkgnet_hf.modeling import group_knn
from tests.test_models import small_config

assert group_knn._kernels("cuda") == {}
features = torch.randn(1, 2, 9, 4)
expected = group_knn.find_neighbors_reference(features, features, 3)
assert torch.equal(group_knn._run(group_knn._search, features, features, 3, 1, None, None), expected)
model = gkgnet_hf.GKGNetForImageClassification(small_config()).train()
model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
print("gradients:", all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()))
"""


PYTEST = "-m", "pytest", "-p", "no:cacheprovider", "tests/interpreted.py"


def run_python(*arguments, **environment):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(
    Version(triton.__version__) < Version("3.7") and Version(numpy.__version__) >= Version("2.4"),
    reason="the interpreter of this Triton counts loops with arrays that this NumPy takes for no numbers",
)
@pytest.mark.slow
def test_in_the_interpreter_the_kernels_are_the_reference_functions():
    # In a process of its own: the interpreter is chosen when Triton is imported, and for all of Triton.
    output = run_python(*PYTEST, TRITON_INTERPRET="1")
    assert " passed" in output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.slow
def test_on_a_gpu_the_kernels_are_the_reference_functions():
    output = run_python(*PYTEST, CUDA_VISIBLE_DEVICES="0")
    assert " passed" in output


@pytest.mark.slow
def test_without_triton_everything_works():
    assert "gradients: True" in run_python("-c", WITHOUT_TRITON)


PRODUCTS = {"products": "*fp32", "query_scale": "*fp32", "key_scale": "*fp32", "neighbors": "*i64", "DILATION": 1}
LISTS = {"scores": "*fp32", "indices": "*i32", "neighbors": "*i64"}
GATHER = {"neighbors": "*i64", "ranks": "*u8", "BLOCK_N": 16, "BLOCK_C": 64}


@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        (
            "_choose_kernel",
            {**PRODUCTS, **LISTS, "rows": "*fp32", "columns": "*fp32", "HAS_BIAS": True, "LAST": False, "RANKS": 9},
        ),
        (
            "_choose_kernel",
            {**PRODUCTS, "scores": None, "indices": None, "rows": None, "columns": None}
            | {"HAS_BIAS": False, "LAST": True, "RANKS": 27},
        ),
        ("_merge_kernel", {**LISTS, "RANKS": 18, "DILATION": 2}),
        ("_gather_max_kernel", {"sources": "*bf16", "values": "*bf16", **GATHER, "NUM_NEIGHBORS": 9, "TRACK": True}),
        ("_scatter_max_kernel", {"grad": "*bf16", "result": "*fp32", **GATHER}),
    ],
)
def test_kernels_compile_for_a_gpu_that_is_not_there(kernel, arguments, tmp_path, monkeypatch):
    """The interpreter takes more than the compiler does; the rest of the arguments are 32-bit integers."""
    from triton.backends.compiler import GPUTarget

    from gkgnet_hf.modeling import group_knn_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(group_knn_triton, kernel)
    types = {name: arguments.get(name, "i32") for name in function.arg_names}
    constants = {
        (index,): value for index, (name, value) in enumerate(types.items()) if name.isupper() or value is None
    }
    signature = {
        name: "constexpr" if (index,) in constants else value for index, (name, value) in enumerate(types.items())
    }
    source = triton.compiler.ASTSource(function, signature, constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
