"""The command and the package start quickly: what takes long to import is imported when it is used."""

import json
import subprocess
import sys

import pytest

# Of these the command needs none to print its help or to refuse words, …
HEAVY = {"torch", "timm", "transformers", "numpy", "huggingface_hub", "yaml", "PIL"}
# … and the package needs none of these before it is asked to read data, evaluate or train.
LATER = {"datasets", "pyarrow", "pandas", "sklearn", "pycocotools", "evaluate", "transformers.trainer", "onnx"}
# timm and the model classes of transformers import these, older releases some of the above; the package does not.
THEIRS = {"scipy", "accelerate", "torchvision.transforms"}

COMMANDS = (
    *([], ["train"], ["evaluate"], ["predict"], ["convert"], ["export"], ["push"], ["card"]),
    *(["data"], ["data", "inspect"], ["data", "convert"], ["data", "make-digits"]),
)


def loaded_after(code, *words):
    """The modules that a fresh process holds when the code is done."""
    report = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr))"
    done = subprocess.run([sys.executable, "-c", f"{report}\n{code}", *words], capture_output=True, text=True)
    return set(json.loads(done.stderr.splitlines()[-1])), done


def command(*words):
    return loaded_after(
        "import runpy; sys.argv[0] = 'gkgnet-hf'; runpy.run_module('gkgnet_hf', run_name='__main__')", *words
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_loads_no_library(words):
    modules, done = command(*words, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(" ".join(["Usage: gkgnet-hf", *words]))
    assert not modules & (HEAVY | LATER | THEIRS)


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        [],
        ["describe"],
        ["train"],
        ["evaluate", "model"],
        ["evaluate", "user/model", "photos", "--fit-thresholds", "global"],
        ["evaluate", "model", "photos", "--per-label", "nowhere/labels.csv"],
        ["predict", "model", "photos", "--json", "--csv"],
        ["predict", "model", "photos", "--threshold", "2"],
        ["convert", "file.pth", "out", "--format", "timm", "--check-labels", "coco"],
        ["export", "model", "out", "--format", "tflite"],
        ["data", "make-digits", "out", "--train", "none"],
    ],
    ids=" ".join,
)
def test_wrong_words_are_refused_before_a_library_is_loaded(words):
    modules, done = command(*words)
    assert done.returncode == (0 if words == ["--version"] else 2)
    assert "Traceback" not in done.stderr
    assert not modules & (HEAVY | LATER | THEIRS)


def test_the_package_loads_what_the_models_need_and_no_more():
    needed, _ = loaded_after("import torch, timm; from transformers import AutoModel, PreTrainedModel")
    modules, _ = loaded_after("import gkgnet_hf")
    assert {"torch", "timm", "transformers"} <= modules
    assert modules & (LATER | THEIRS) <= needed


def test_python_m_starts_as_quickly():
    code = "import subprocess, sys; sys.orig_argv[1:3] = ['-m', 'gkgnet_hf']; sys.argv[0] = '-m'; import gkgnet_hf.cli"
    modules, _ = loaded_after(code)
    assert not modules & HEAVY
    done = subprocess.run([sys.executable, "-m", "gkgnet_hf", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("gkgnet-hf ")


def test_the_models_are_registered_in_a_program_that_another_one_starts():
    code = "sys.argv[0] = '-m'; import gkgnet_hf; from transformers import AutoConfig; AutoConfig.for_model('gkgnet')"
    _, done = loaded_after(code)
    assert done.returncode == 0
