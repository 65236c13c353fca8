"""A saved model carries its code: it loads where this package is not installed, and where it is, that code rests."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification, pipeline
from transformers.dynamic_module_utils import get_imports

from gkgnet_hf import (
    GKGNetBackbone,
    GKGNetConfig,
    GKGNetForImageClassification,
    GKGNetModel,
    create_image_processor,
)
from gkgnet_hf.modeling import modeling_gkgnet

from .fingerprint import agree
from .test_models import small_config
from .test_trainer import build_trainer

CODE = {
    "configuration_gkgnet.py",
    "group_knn.py",
    "group_knn_cpu.py",
    "group_knn_triton.py",
    "norm_gelu.py",
    "packed_conv.py",
    "modeling_gkgnet.py",
    "vision_gnn.py",
}
MODEL = CODE | {"config.json", "model.safetensors"}
PHOTO = Image.new("RGB", (80, 60), "orange")


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
@torch.no_grad()
def saved(tmp_path_factory):
    """A model, a checkpoint of the Trainer, and what both compute."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = GKGNetForImageClassification(small_config(out_indices=[2], initializer_range=1e-6)).eval()
    model.save_pretrained(folder / "model")
    create_image_processor(model.config).save_pretrained(folder / "model")
    with torch.enable_grad():
        trainer = build_trainer(folder / "trained", max_steps=1, save_steps=1)
        trainer.train()
    (folder / "trained" / "checkpoint-1").rename(folder / "checkpoint")
    pixel_values = torch.randn(2, 3, 64, 64)
    backbone = GKGNetBackbone.from_pretrained(folder / "model")
    expected = {
        "pixel_values": pixel_values,
        "logits": model(pixel_values).logits,
        "label_nodes": model.gkgnet(pixel_values).label_hidden_state,
        "feature_map": backbone(pixel_values).feature_maps[0],
        "checkpoint_logits": trainer.model.eval()(pixel_values).logits,
    }
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")
    return folder


@pytest.fixture(scope="module")
def without_package(saved):
    """What a process says that has transformers, but neither this package nor timm."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.run_without_package", str(saved)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_MODULES_CACHE": str(saved / "modules")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((saved / "report.json").read_text())


@pytest.mark.parametrize("model_class", [GKGNetModel, GKGNetForImageClassification, GKGNetBackbone])
def test_every_model_is_saved_with_the_code_and_nothing_else(model_class, tmp_path):
    model = model_class(small_config())
    for _ in range(2):
        model.save_pretrained(tmp_path)
        assert names(tmp_path) == MODEL
        for name in CODE:
            assert (tmp_path / name).read_bytes() == Path(modeling_gkgnet.__file__).with_name(name).read_bytes()
        assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
            "AutoConfig": "configuration_gkgnet.GKGNetConfig",
            "AutoModel": "modeling_gkgnet.GKGNetModel",
            "AutoModelForImageClassification": "modeling_gkgnet.GKGNetForImageClassification",
            "AutoBackbone": "modeling_gkgnet.GKGNetBackbone",
        }


def test_a_configuration_alone_is_saved_with_the_code(tmp_path):
    GKGNetConfig().save_pretrained(tmp_path)
    assert names(tmp_path) == CODE | {"config.json"}


class Subclass(GKGNetForImageClassification):
    """A model that its author shares with its own code."""


Subclass.register_for_auto_class("AutoModelForImageClassification")


def test_a_registered_subclass_is_saved_as_itself(tmp_path):
    config = small_config(auto_map={"AutoModel": "someone/else--modeling_gkgnet.GKGNetModel"})
    Subclass(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_gkgnet.GKGNetConfig",
        "AutoModel": "modeling_gkgnet.GKGNetModel",
        "AutoModelForImageClassification": "test_remote_code.Subclass",
        "AutoBackbone": "modeling_gkgnet.GKGNetBackbone",
    }


def test_checkpoints_and_results_of_the_trainer_have_the_code(saved):
    assert names(saved / "checkpoint") >= MODEL


def test_the_code_imports_only_what_transformers_needs_too_or_tries_triton():
    needed = {"torch", "transformers", "huggingface_hub", "safetensors", "packaging", *sys.stdlib_module_names}
    for name in CODE:
        allowed = needed | ({"triton"} if name == "group_knn_triton.py" else set())
        tree = ast.parse(Path(modeling_gkgnet.__file__).with_name(name).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (node.level, f"{node.module}.py") in {(1, other) for other in CODE}
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {module.partition(".")[0] for module in modules} <= allowed, name
        assert "triton" not in get_imports(Path(modeling_gkgnet.__file__).with_name(name))


@pytest.mark.slow
def test_without_the_package_nothing_loads_unasked(without_package):
    assert without_package["importable"] == without_package["hidden modules"] == []
    assert len(without_package["refusals"]) == 3
    for refusal in without_package["refusals"]:
        assert "Please pass the argument `trust_remote_code=True`" in refusal


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["classifier", "base", "backbone", "checkpoint", "again", "beside the package", "package"]
)
def test_without_the_package_every_model_has_the_same_weights_and_outputs(without_package, name):
    assert without_package["same"][name]


@pytest.mark.slow
def test_without_the_package_the_pipeline_gives_the_same_scores(without_package, saved):
    expected = pipeline("image-classification", model=str(saved / "model"))(PHOTO, top_k=None)
    assert agree(without_package["scores"], expected)
    assert without_package["AutoBackbone"] == "GKGNetBackbone"


@pytest.mark.slow
def test_the_package_takes_over_once_it_is_imported(without_package):
    assert without_package["package class"]


@pytest.mark.slow
def test_without_the_package_a_saved_model_carries_the_code_on(without_package):
    expected = {"config": CODE | {"config.json"}, "classifier": MODEL, "base": MODEL, "backbone": MODEL}
    assert {name: set(files) for name, files in without_package["files"].items()} == expected


@pytest.mark.parametrize("trust", [None, True])
def test_with_the_package_no_other_code_runs_and_nothing_is_asked(saved, trust, monkeypatch, capfd):
    monkeypatch.setattr("builtins.input", None)
    monkeypatch.setattr("transformers.dynamic_module_utils.get_cached_module_file", None)
    folder = str(saved / "model")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    assert type(config) is GKGNetConfig
    assert type(AutoBackbone.from_config(config, trust_remote_code=trust)) is GKGNetBackbone
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=trust)) is GKGNetModel
    classifier = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=trust)
    assert type(classifier) is GKGNetForImageClassification
    classify = pipeline("image-classification", model=folder, trust_remote_code=trust)
    assert type(classify.model) is GKGNetForImageClassification
    assert "code" not in "".join(capfd.readouterr())
