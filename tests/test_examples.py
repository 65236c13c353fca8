"""The examples run: scripts as a person starts them, notebooks cell by cell, both in miniature."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoImageProcessor

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.data.digits import make_digits
from gkgnet_hf.data.pictures import open_picture

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with scenes of digits and a small network that has not learned anything."""
    folder = tmp_path_factory.mktemp("examples")
    make_digits(folder / "digits", num_train=36, num_validation=12)
    sizes = dict(hidden_sizes=(16, 16, 32, 32), depths=(1, 1, 1, 1), image_size=64)
    config = GKGNetConfig(**sizes, id2label={i: str(i) for i in range(10)})
    GKGNetForImageClassification(config).save_pretrained(folder / "small")
    create_image_processor(config).save_pretrained(folder / "small")
    return folder


def script(place, name, *words, **environment):
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_k_fold_holds_every_picture_out_once(place):
    words = ["digits", "--folds", "3", "--size", "small", "--image_size", "64", "--epochs", "1"]
    text = script(place, "k_fold.py", *words)
    assert sum(int(count) for count in re.findall(r"(\d+) held out", text)) == 36
    assert re.search(r"mAP \d+\.\d ± \d+\.\d \(standard deviation of 3 folds\)", text)


def test_the_search_prints_a_command_with_the_best_settings(place):
    words = ["digits", "--trials", "2", "--size", "small", "--image_size", "64", "--epochs", "1"]
    text = script(place, "search_hyperparameters.py", *words)
    assert re.search(r"gkgnet-hf train custom --dataset digits --loss \w+ --learning_rate \S+ --weight_decay \S+", text)


def test_an_adapter_that_was_saved_gives_the_same_logits_and_leaves_the_weights_alone(place):
    text = script(place, "lora.py", "small", "digits", "--epochs", "1")
    assert float(re.search(r"logits differ by (\S+)", text)[1]) < 1e-5
    before = GKGNetForImageClassification.from_pretrained(place / "small").state_dict()
    after = GKGNetForImageClassification.from_pretrained(place / "my-adapter").state_dict()
    assert all(before[name].equal(after[name]) for name in before)
    assert (place / "my-adapter" / "adapter" / "adapter_model.safetensors").is_file()


def test_onnx_labels_pictures_where_torch_cannot_be_imported(place):
    command = [sys.executable, "-m", "gkgnet_hf"]
    subprocess.run([*command, "export", "small", "onnx"], cwd=place, check=True, capture_output=True)
    (place / "blocked").mkdir()
    for name in ("torch", "transformers", "timm", "gkgnet_hf"):
        (place / "blocked" / f"{name}.py").write_text("raise ImportError('not here')")
    picture = "digits/val/000001.png"
    text = script(place, "onnx_without_torch.py", "onnx", picture, PYTHONPATH=str(place / "blocked"))
    own = subprocess.run([*command, "predict", "small", picture], cwd=place, capture_output=True, text=True, check=True)
    assert text.split(" (")[0] == own.stdout.split(" (")[0]  # the picture and its label of highest score


def test_onnx_prepares_pictures_as_the_image_processor_does(place, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from onnx_without_torch import prepare

    processor = AutoImageProcessor.from_pretrained(place / "small")
    picture = place / "digits" / "val" / "000002.png"
    expected = processor(open_picture(picture), return_tensors="np")["pixel_values"][0]
    step = 1 / 255 / min(processor.image_std)
    assert np.abs(prepare(picture, processor.to_dict()) - expected).max() < 1.01 * step


MINIATURE = {
    "fine_tune_on_your_folder.ipynb": {"STEPS": 2, "NUM_DRAWN": 64, "IMAGE_SIZE": 64},
    "explain_predictions.ipynb": {},
    "backbone_in_a_detector.ipynb": {"STEPS": 2, "NUM_DRAWN": 16},
}


def test_notebooks_run_one_after_the_other(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name, settings in MINIATURE.items():
        notebook = nbformat.read(EXAMPLES / name, as_version=4)
        (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        parameters.source += "".join(f"\n{key} = {value!r}" for key, value in settings.items())
        nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "my-gkgnet" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", MINIATURE)
def test_notebooks_are_committed_with_what_they_show(name):
    nbformat = pytest.importorskip("nbformat")
    path = EXAMPLES / name
    assert path.stat().st_size < 600_000
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    shown = {kind for cell in cells for output in cell.outputs for kind in output.get("data", {})}
    assert shown & {"image/png", "image/jpeg"}
