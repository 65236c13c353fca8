"""The Triton kernels, as far as they can be tested without a GPU; tests/test_device.py runs them on one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
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
    output = run_python("-m", "pytest", "-p", "no:cacheprovider", "tests/interpreted.py", TRITON_INTERPRET="1")
    assert " passed" in output


@pytest.mark.slow
def test_without_triton_everything_works():
    assert "gradients: True" in run_python("-c", WITHOUT_TRITON)


FEATURES = {"destinations": "*bf16", "sources": "*bf16"}
BIAS = {"rows": "*fp32", "columns": "*fp32", "HAS_BIAS": True}
SEARCH = {"result": "*i64", "SLOTS": 32, "BLOCK_N": 32, "BLOCK_M": 64, "BLOCK_C": 32}
GATHER = {"neighbors": "*i64", "ranks": "*u8", "BLOCK_N": 16, "BLOCK_C": 64}


@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        ("_search_kernel", {**FEATURES, **BIAS, **SEARCH, "PRECISION": "tf32"}),
        (
            "_search_kernel",
            {"destinations": "*fp32", "sources": "*fp32", "rows": None, "columns": None, "HAS_BIAS": False}
            | {**SEARCH, "PRECISION": "ieee"},
        ),
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
