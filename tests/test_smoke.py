"""What somebody gets who installs a wheel: `make smoke` runs this in a fresh environment, from outside the checkout."""

import json
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from unittest.mock import patch

import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

import gkgnet_hf
from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.modeling import group_knn, group_knn_cpu

pytestmark = pytest.mark.smoke

PACKAGE = distribution("gkgnet-hf")
FROM_CHECKOUT = json.loads(PACKAGE.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable", False)
WITH_LOOPS = "Root-Is-Purelib: false" in (PACKAGE.read_text("WHEEL") or "")
installed = pytest.mark.skipif(FROM_CHECKOUT, reason="the installation is a link to a checkout")


def small_model() -> GKGNetForImageClassification:
    config = GKGNetConfig(
        hidden_sizes=(8, 8, 16, 16), depths=(1, 1, 1, 1), image_size=64, id2label={0: "cat", 1: "dog", 2: "tree"}
    )
    return GKGNetForImageClassification(config).eval()


def run(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "gkgnet_hf", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@installed
def test_the_package_is_the_one_that_was_installed(tmp_path):
    assert Path(gkgnet_hf.__file__) == Path(PACKAGE.locate_file("gkgnet_hf/__init__.py"))
    assert "site-packages" in Path(gkgnet_hf.__file__).parts
    assert gkgnet_hf.__version__ == PACKAGE.version
    assert run(tmp_path, "--version").split()[-1] == PACKAGE.version


@installed
def test_compiled_loops_search_where_the_wheel_brings_them_and_pytorch_elsewhere():
    with patch.object(group_knn, "search_cpu", wraps=group_knn_cpu.search) as search, torch.inference_mode():
        small_model()(torch.randn(1, 3, 64, 64))
    assert bool(search.call_count) == WITH_LOOPS


def test_the_loops_change_no_logit():
    model, pixels = small_model(), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = model(pixels).logits
        with group_knn_cpu.without_kernels():
            torch.testing.assert_close(logits, model(pixels).logits, rtol=1e-4, atol=1e-4)


def test_a_picture_gets_its_labels_from_the_command(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "model")
    create_image_processor(model.config).save_pretrained(tmp_path / "model")
    Image.new("RGB", (80, 60), "orange").save(tmp_path / "photo.jpg")
    printed = run(tmp_path, "predict", "model", "photo.jpg", "--top-k", "3", "--csv")
    assert all(name in printed for name in ("photo.jpg", "cat", "dog", "tree"))


def test_transformers_and_timm_know_the_models(tmp_path):
    small_model().save_pretrained(tmp_path)
    assert isinstance(AutoModelForImageClassification.from_pretrained(tmp_path), GKGNetForImageClassification)
    assert "gkgnet_ti" in timm.list_models("gkgnet*")


@pytest.mark.slow
def test_a_network_is_trained_on_scenes_that_the_package_draws(tmp_path):
    run(tmp_path, "data", "make-digits", "digits", "--train", "8", "--validation", "4", "--image-size", "64")
    tiny = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    quick = ["--use_cpu", "--max_steps", "2", "--image_size", "64", "--per_device_train_batch_size", "4"]
    quick += ["--dataloader_num_workers", "0", "--report_to", "none", "--config", json.dumps(tiny)]
    run(tmp_path, "train", "digits", "--dataset", "digits", "--output_dir", "trained", *quick)
    assert (tmp_path / "trained" / "model.safetensors").is_file()
