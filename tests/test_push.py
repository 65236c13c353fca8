"""What a folder must be before any of it is sent; test_hub_round_trips sends."""

import json

import pytest
import timm

from gkgnet_hf import GKGNetBackbone, GKGNetForImageClassification, GKGNetModel
from gkgnet_hf.hub.push import find_model_files, push_folder

from .test_models import WIDTHS, small_config

SMALL = {"embed_dims": WIDTHS, "depths": (1, 1, 2, 1), "img_size": 64}


@pytest.fixture
def folder(tmp_path):
    """A model in parts."""
    GKGNetForImageClassification(small_config()).save_pretrained(tmp_path / "model", max_shard_size="200KB")
    return tmp_path / "model"


def test_a_whole_folder_is_found_whole_and_nothing_else(folder):
    for stays in ("optimizer.pt", "training_args.bin", "training_weights.safetensors", "bad_images.csv", ".notes.md"):
        (folder / stays).touch()
    (folder / "runs").mkdir()
    parts = {path.name for path in folder.glob("model-*.safetensors")}
    assert len(parts) > 1
    found = {name for name in find_model_files(folder) if not name.endswith(".py")}
    assert found == {"config.json", "model.safetensors.index.json", *parts}


def test_one_file_goes_before_parts_as_a_loader_takes_them(folder):
    GKGNetForImageClassification(small_config()).save_pretrained(folder.parent / "single")
    (folder.parent / "single" / "model.safetensors").rename(folder / "model.safetensors")
    assert {name for name in find_model_files(folder) if "model" in name and ".py" not in name} == {"model.safetensors"}


def rewrite(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


INDEX = "model.safetensors.index.json"
DAMAGES = {
    "no configuration": (lambda folder, part, other: (folder / "config.json").unlink(), "config.json"),
    "broken configuration": (lambda folder, part, other: (folder / "config.json").write_text("{"), "config.json"),
    "foreign": (lambda folder, part, other: (folder / "config.json").write_text("{}"), "must be of a GKGNet"),
    "no weights": (lambda folder, part, other: (folder / INDEX).unlink(), "pickles and links are not published"),
    "empty index": (lambda folder, part, other: (folder / INDEX).write_text("{}"), "metadata and a weight_map"),
    "lost part": (lambda folder, part, other: part.unlink(), "names a part that is not there: model-00001"),
    "mistaken part": (
        lambda folder, part, other: part.write_bytes(other.read_bytes()),
        "lacks .* of the index",
    ),
    "cut": (lambda folder, part, other: part.write_bytes(part.read_bytes()[:-1]), "is no whole safetensors file"),
    "fewer blocks": (lambda folder, part, other: rewrite(folder, depths=[1, 1, 1, 1]), "unexpected: gkgnet.backbone"),
    "more blocks": (lambda folder, part, other: rewrite(folder, depths=[1, 1, 3, 1]), "missing: gkgnet.backbone"),
    "other labels": (
        lambda folder, part, other: rewrite(folder, id2label={"0": "cat"}),
        r"label_classifier.bias \(expected \(1,\), got \(5,\)\)",
    ),
    "another class": (lambda folder, part, other: rewrite(folder, architectures=["GKGNetModel"]), "missing: backbone"),
    "unknown class": (
        lambda folder, part, other: rewrite(folder, architectures=["GKGNet"]),
        "must be of one of GKGNetF",
    ),
    "flipped": (lambda folder, part, other: part.write_bytes(b"x" + part.read_bytes()[1:]), "is no whole safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_before_anything_is_sent(folder, damage):
    inflict, message = DAMAGES[damage]
    inflict(folder, *sorted(folder.glob("model-*"))[:2])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        push_folder(folder, "user/net")


@pytest.mark.parametrize("model", [GKGNetModel, GKGNetBackbone])
def test_a_folder_of_each_class_is_whole(model, tmp_path):
    model(small_config()).save_pretrained(tmp_path)
    assert "model.safetensors" in find_model_files(tmp_path)


TIMM_DAMAGES = {
    "whole": ({}, None),
    "other classes": ({"num_classes": 3, "model_args": SMALL}, r"head.fc.bias \(expected \(3,\), got \(7,\)\)"),
    "fewer blocks": ({"model_args": {**SMALL, "depths": [1, 1, 1, 1]}}, "unexpected: stages.2.blocks.1"),
    "unknown argument": ({"model_args": {"width": 3}}, "does not describe a timm model: .*width"),
    "unknown model": ({"architecture": "gkgnet_xl"}, "does not describe a timm model: .*gkgnet_xl"),
}


@pytest.mark.parametrize("damage", TIMM_DAMAGES)
def test_a_folder_of_timm_holds_the_model_that_its_configuration_describes(damage, tmp_path):
    model = timm.create_model("gkgnet_s", num_classes=7, **SMALL)
    timm.models.save_for_hf(model, tmp_path, model_args=SMALL, safe_serialization=True)
    fields, message = TIMM_DAMAGES[damage]
    rewrite(tmp_path, **fields)
    if message is None:
        assert "model.safetensors" in find_model_files(tmp_path)
    else:
        with pytest.raises(ValueError, match=message):
            push_folder(tmp_path, "user/net")


def test_a_pull_request_excludes_a_branch(folder):
    with pytest.raises(ValueError, match="create_pr excludes revision, got 'next'"):
        push_folder(folder, "user/net", revision="next", create_pr=True)
