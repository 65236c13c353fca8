"""The commands: what they print, what they write, and what a wrong input says."""

import csv
import io
import json
import subprocess
import sys
from functools import partial

import pytest
from PIL import Image

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.cli import _option_name

from .test_models import small_config
from .test_recipes import QUICK, write_photos


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workplace")
    write_photos(folder / "photos")
    config = small_config(id2label={0: "green", 1: "red"})
    GKGNetForImageClassification(config).save_pretrained(folder / "model")
    create_image_processor(config).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def run(run_in, workplace):
    return partial(run_in, workplace)


def test_train_evaluate_predict(run, workplace):
    code, out, _ = run("train", "custom", *QUICK, "--backbone_checkpoint", "none", "--output_dir", "trained")
    assert code == 0
    assert "Validation mAP" in out
    assert (workplace / "trained" / "recipe.yaml").is_file()
    code, out, _ = run("evaluate", "trained", "photos", "--split", "all")
    assert code == 0
    assert "on 10 images, 2 labels" in out
    code, out, _ = run("predict", "trained", "photos/1.jpg", "--top_k", "2")
    assert code == 0
    assert out.startswith("photos/1.jpg: ")
    assert "red (" in out
    assert "green (" in out


def test_evaluate_writes_json_and_a_table_of_labels(run, workplace):
    code, out, _ = run("evaluate", "model", "photos", "--split", "all", "--json", "--per-label", "labels.csv")
    assert code == 0
    result = json.loads(out)
    assert result["num_images"] == 10
    assert 0 <= result["metrics"]["mAP"] <= 100
    rows = list(csv.DictReader((workplace / "labels.csv").open()))
    assert [row["label"] for row in rows] == ["green", "red"]
    assert float(rows[0]["AP"]) == pytest.approx(result["per_label"][0]["AP"])


def test_the_former_name_of_an_option_works_with_a_warning(run):
    _option_name.cache_clear()
    for name, warnings in (("--config-name", 1), ("--dataset-config-name", 0)):
        code, out, err = run("data", "inspect", "photos", name, "default")
        assert code == 0
        assert "labels" in out
        assert err.count("--config-name is called --dataset-config-name now") == warnings


def test_fitted_thresholds_are_kept_and_used_by_predict(run, workplace):
    for mode, count in (("per-label", 2), ("global", None)):
        code, out, err = run("evaluate", "model", "photos", "--split", "all", "--fit-thresholds", mode)
        assert code == 0
        assert "fitted" in out
        assert "model/config.json now holds the thresholds" in err
        threshold = json.loads((workplace / "model" / "config.json").read_text())["decision_threshold"]
        assert isinstance(threshold, float) if count is None else len(threshold) == count
    _, out, _ = run("predict", "model", "photos", "--json")
    scores = [label["score"] for row in json.loads(out) for label in row["labels"]]
    _, out, _ = run("predict", "model", "photos", "--json", "--top-k", "2")
    everything = [label["score"] for row in json.loads(out) for label in row["labels"]]
    assert len(everything) == 20
    assert sorted(scores) == sorted(score for score in everything if score >= threshold)


def test_predict_reads_files_folders_and_patterns(run):
    code, out, _ = run("predict", "model", "photos/1.jpg", "photos/[23].jpg", "photos", "--csv", "--top-k", "1")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["image"] for row in rows[:3]] == ["photos/1.jpg", "photos/2.jpg", "photos/3.jpg"]
    assert len(rows) == 10


def test_inspect_prints_what_is_understood(run):
    code, out, _ = run("data", "inspect", "photos")
    assert code == 0
    assert "10 images, 2 labels, 1.3 labels per image" in out


def test_make_digits_writes_coco_files(run, workplace):
    code, out, _ = run("data", "make-digits", "digits", "--train", "2", "--validation", "1")
    assert code == 0
    assert out.strip() == "digits"
    assert (workplace / "digits" / "annotations" / "instances_val.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere"], "nowhere is neither a file nor a recipe"),
        (["train", "custom", "--dataset", "./nowhere", *QUICK], "There is no file or folder ./nowhere"),
        (["train", "custom", "--imagesize", "3", *QUICK], "unknown argument imagesize; did you mean image_size?"),
        (["evaluate", "nowhere", "photos"], "There is no folder nowhere"),
        (["predict", "photos", "photos"], "photos holds no model: it has no config.json"),
        (["evaluate", "model", "./nowhere"], "There is no file or folder ./nowhere"),
        (["evaluate", "model", "photos", "--split", "best"], "photos has the splits train, not 'best'"),
        (
            ["evaluate", "user/model", "photos", "--fit-thresholds", "global"],
            "--fit-thresholds writes into the model's",
        ),
        (["predict", "model", "nothing.jpg"], "No file or folder matches nothing.jpg"),
        (["predict", "model", "photos", "--json", "--csv"], "--json and --csv exclude each other"),
        (["predict", "model", "photos", "--threshold", "2"], "Invalid value for '--threshold'"),
        (["predict", "model", "labels.txt"], "No image could be used. labels.txt: it is not a picture"),
        (["data", "inspect", "odd.csv"], "Cannot tell which of the columns"),
        (["data", "make-digits", "photos"], "photos must be empty"),
        (["describe"], "No such command 'describe'"),
    ],
)
def test_a_wrong_input_is_one_line_and_exit_code_2(run, workplace, words, message):
    (workplace / "labels.txt").write_text("no image")
    (workplace / "odd.csv").write_text("a,b\n1,2\n")
    code, out, err = run(*words)
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("gkgnet-hf: ")
    assert message in last
    assert "Traceback" not in err
    assert not out


def test_images_that_cannot_be_read_may_be_skipped(run, workplace):
    (workplace / "some").mkdir()
    Image.new("RGB", (40, 40)).save(workplace / "some" / "good.png")
    (workplace / "some" / "bad.png").write_bytes(b"\x89PNG")
    code, out, _ = run("predict", "model", "some", "--on-bad-image", "skip", "--csv", "--top-k", "1")
    assert code == 0
    assert [row["image"] for row in csv.DictReader(io.StringIO(out))] == ["some/good.png"]


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["evaluate"],
        ["predict"],
        ["convert"],
        ["export"],
        ["push"],
        ["card"],
        ["data"],
        ["data", "inspect"],
    ],
)
def test_help_reads_well(run, command):
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert out.startswith("Usage: gkgnet-hf")
    assert max(len(line) for line in out.splitlines()) <= 80
    if command == ["train"]:
        assert "--ema_decay" in out
        assert "coco-448" in out


def test_the_command_is_installed():
    done = subprocess.run([sys.executable, "-m", "gkgnet_hf", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "evaluate" in done.stdout


@pytest.mark.parametrize("option", ["--blank", "--minus-one"])
def test_a_meaning_that_does_not_exist_is_one_line(run, option):
    code, _, err = run("data", "inspect", "photos", option, "perhaps")
    assert code == 2
    assert err.splitlines()[-1] == f"gkgnet-hf: {option} must be negative, unknown, positive, got 'perhaps'"
