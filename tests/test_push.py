"""What a folder must be before any of it is sent; test_hub_round_trips sends."""

import pytest

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.hub.push import find_model_files, push_folder

from .test_models import small_config


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


INDEX = "model.safetensors.index.json"
DAMAGES = {
    "no configuration": (lambda folder, part, other: (folder / "config.json").unlink(), "config.json"),
    "broken configuration": (lambda folder, part, other: (folder / "config.json").write_text("{"), "config.json"),
    "foreign": (lambda folder, part, other: (folder / "config.json").write_text("{}"), "must be of a GKGNet"),
    "no weights": (lambda folder, part, other: (folder / INDEX).unlink(), "pickles are not published"),
    "empty index": (lambda folder, part, other: (folder / INDEX).write_text("{}"), "names no weights"),
    "lost part": (lambda folder, part, other: part.unlink(), "names a part that is not there: model-00001"),
    "mistaken part": (
        lambda folder, part, other: part.write_bytes(other.read_bytes()),
        "lacks .* of the index",
    ),
    "cut": (lambda folder, part, other: part.write_bytes(part.read_bytes()[:-1]), "is no whole safetensors file"),
    "flipped": (lambda folder, part, other: part.write_bytes(b"x" + part.read_bytes()[1:]), "is no whole safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_before_anything_is_sent(folder, damage):
    inflict, message = DAMAGES[damage]
    inflict(folder, *sorted(folder.glob("model-*"))[:2])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        push_folder(folder, "user/net")


def test_a_pull_request_excludes_a_branch(folder):
    with pytest.raises(ValueError, match="create_pr excludes revision, got 'next'"):
        push_folder(folder, "user/net", revision="next", create_pr=True)
