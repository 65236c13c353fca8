"""What an earlier version wrote is read by this one, and what a later one wrote says so."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import gkgnet_hf
from gkgnet_hf import GKGNetConfig

from .drawing import FIXTURES
from .write_checkpoint import to_pixel_values

CHECKPOINTS = sorted(FIXTURES.glob("checkpoint_v*"))


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=[folder.name for folder in CHECKPOINTS])
def test_a_checkpoint_of_each_version_gives_its_logits(folder):
    model = AutoModelForImageClassification.from_pretrained(folder).double()
    expected = load_file(folder / "expected.safetensors")
    logits = model(to_pixel_values(expected["pixels"])).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-5)
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "tree"}
    assert model.config.decision_threshold == [0.25, 0.5, 0.75]
    assert folder.name == "checkpoint_v" + ".".join(model.config.gkgnet_hf_version.split(".")[:2])


def test_there_is_a_checkpoint_of_this_version():
    name = "checkpoint_v" + ".".join(gkgnet_hf.__version__.split(".")[:2])
    assert name in [folder.name for folder in CHECKPOINTS], f"python -m tests.write_checkpoint tests/fixtures/{name}"


def rewrite(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_the_file_names_its_version_until_it_is_saved_again(tmp_path):
    GKGNetConfig().save_pretrained(tmp_path)
    assert GKGNetConfig.from_pretrained(tmp_path).gkgnet_hf_version == gkgnet_hf.__version__
    rewrite(tmp_path, gkgnet_hf_version="0.0.1")
    config = GKGNetConfig.from_pretrained(tmp_path)
    assert config.gkgnet_hf_version == "0.0.1"
    assert config.to_dict() == GKGNetConfig().to_dict()
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["gkgnet_hf_version"] == gkgnet_hf.__version__


@pytest.mark.parametrize(("version", "warns"), [("0.0.1", False), (gkgnet_hf.__version__, False), ("99.1", True)])
def test_a_configuration_of_a_later_version_warns(version, warns, tmp_path, caplog):
    GKGNetConfig().save_pretrained(tmp_path)
    rewrite(tmp_path, gkgnet_hf_version=version)
    GKGNetConfig.from_pretrained(tmp_path)
    warning = f"was written by gkgnet_hf 99.1; {gkgnet_hf.__version__} may not know all of its fields"
    assert (warning in caplog.text) is warns


def test_a_field_of_a_later_version_is_no_misspelt_one(tmp_path):
    GKGNetConfig().save_pretrained(tmp_path)
    rewrite(tmp_path, gkgnet_hf_version="99.1", num_groups_2=3)
    assert GKGNetConfig.from_pretrained(tmp_path).num_groups_2 == 3
