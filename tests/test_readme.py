"""The snippets of README and docs, as written, in an empty folder. Other tests run what needs a Hub or an export."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.predict.label_rules import read_label_rules

from .drawing import draw_checkpoint
from .networks import small_classifier
from .test_recipes import write_photos

ROOT = Path(__file__).parents[1]


def snippets(page, *languages):
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def run(page, without="pyspark"):
    """Run the Python of a page in one namespace → the namespace. What needs Spark is run by test_spark.py."""
    namespace = {}
    for snippet in (text for text in snippets(page, "python") if without not in text):
        exec(compile(snippet, page, "exec"), namespace)
    return namespace


def test_python_of_readme_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = small_classifier(["cat", "dog", "tree"], image_size=64)
    model.save_pretrained("my-gkgnet")
    create_image_processor(model.config).save_pretrained("my-gkgnet")
    Path("photos").mkdir()
    Image.new("RGB", (64, 48)).save("photos/0.jpg")
    namespace = run("README.md")
    assert namespace["classify"].model.config.model_type == "gkgnet"
    assert namespace["backbone"].feature_info.reduction() == [4, 8, 16, 32]


def test_training_in_python_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run("docs/training.md")
    assert namespace["evaluation"].num_images > 0
    assert namespace["outputs"].logits.shape == (2, 3)
    assert namespace["classify"].model.config.id2label[0] == "cat"
    assert (tmp_path / "three-labels" / "model.safetensors").is_file()


def test_explaining_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("docs/explain.md")["seen"].labels
    assert (tmp_path / "where.png").is_file()


def test_predicting_at_scale_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = GKGNetConfig.from_variant("ti", num_labels=2)
    GKGNetForImageClassification(config).save_pretrained("my-gkgnet")
    create_image_processor(config).save_pretrained("my-gkgnet")
    Path("photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 8)).save(Path("photos") / name)
    assert run("docs/predict.md")["labelled"]["problem"] == [None, None]
    (table,) = snippets("docs/predict.md", "csv")
    Path("labels.csv").write_text(table)
    rules = read_label_rules(["dog", "wolf", "watermark"], 0.5, table="labels.csv")
    assert rules(np.array([0.45, 0.7, 0.9])) == [("Hund", 0.45), ("animal", 0.45), ("pet", 0.45)]


def test_optimizing_runs_as_written():
    assert not run("docs/speed.md")["network"].training


@pytest.mark.slow
def test_fine_tuning_runs_as_written(tmp_path, monkeypatch):
    downloaded = tmp_path / "cache" / "hub" / "checkpoints"
    downloaded.mkdir(parents=True)
    torch.save(draw_checkpoint("pvig_ti_224", seed=0), downloaded / "pvig_ti_78.5.pth.tar")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    write_photos(tmp_path / "photos", count=20)
    (commands,) = snippets("README.md", "bash")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "20 images, 2 labels" in done.stdout
    assert "Validation mAP" in done.stdout
    assert len(re.findall(r"^photos/\d+\.\w+: ", done.stdout, flags=re.MULTILINE)) == 20
