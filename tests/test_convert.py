"""Released files → folders, by the library and the command; and which order of labels fits a dataset."""

import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from gkgnet_hf import load_released_checkpoint
from gkgnet_hf.data.label_sets import COCO_LABELS, read_labels
from gkgnet_hf.evaluation.label_order import best_label_order
from gkgnet_hf.hub.convert import convert_checkpoint

from .base import assert_alike
from .drawing import draw_checkpoint, draw_image

NAMES = list("abcdef")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a GKGNet file of 6 labels and a Pyramid ViG file."""
    folder = tmp_path_factory.mktemp("files")
    torch.save({"state_dict": draw_checkpoint("gkgnet_t_224_labels80", seed=1, num_labels=6)}, folder / "gkgnet.pth")
    torch.save(draw_checkpoint("pvig_ti_224", seed=0), folder / "pvig.pth.tar")
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder


@pytest.fixture
def run(run_in, files):
    return partial(run_in, files)


def test_a_gkgnet_file_becomes_a_model_of_transformers(run, files):
    code, out, _ = run("convert", "gkgnet.pth", "model", "--labels", "names.txt")
    assert code == 0
    assert "licence of gkgnet.pth" in out
    model = AutoModelForImageClassification.from_pretrained(files / "model")
    assert list(model.config.id2label.values()) == NAMES
    assert AutoImageProcessor.from_pretrained(files / "model").size["height"] == 224
    image = draw_image((1, 3, 224, 224), 1)
    assert_alike([model(image).logits], [load_released_checkpoint(files / "gkgnet.pth")(image).logits])
    assert "gkgnet-non-commercial" in (files / "model" / "README.md").read_text()


def test_a_gkgnet_file_becomes_a_backbone_of_timm(files, tmp_path):
    convert_checkpoint(files / "gkgnet.pth", tmp_path / "out", "timm")
    backbone = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    image = draw_image((1, 3, 224, 224), 1)
    released = load_released_checkpoint(files / "gkgnet.pth")
    assert_alike([backbone(image)], [released.gkgnet(image).pooler_output])
    config = timm.data.resolve_data_config(model=backbone)
    assert (tuple(config["input_size"]), config["crop_mode"]) == ((3, 224, 224), "squash")
    timm.models.save_for_hf(backbone, tmp_path / "again", safe_serialization=True)
    for folder in ("out", "again"):  # the licence of the weights stays with them
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config["pretrained_cfg"]["license"] == "gkgnet-non-commercial"


def test_a_backbone_of_timm_keeps_its_image_size(tmp_path):
    tensors = draw_checkpoint("gkgnet_t_224_labels80", seed=1, num_labels=6)
    tensors["backbone.pos_embed"] = torch.randn(1, 48, 24, 32)
    torch.save(tensors, tmp_path / "wide.pth")
    convert_checkpoint(tmp_path / "wide.pth", tmp_path / "out", "timm")
    backbone = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert torch.equal(backbone.stem.pos_embed, tensors["backbone.pos_embed"])
    assert tuple(timm.data.resolve_data_config(model=backbone)["input_size"]) == (3, 96, 128)


def test_a_pyramid_vig_file_becomes_a_classifier_of_timm_and_its_wrapper(files, tmp_path):
    names = [f"class {i}" for i in range(1000)]
    convert_checkpoint(files / "pvig.pth.tar", tmp_path / "out", "timm", labels=names)
    overlay = dict(file=str(files / "pvig.pth.tar"))
    original = timm.create_model("pvig_ti", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    image = draw_image((1, 3, 224, 224), 1)
    expected = original(image)
    converted = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert_alike([converted(image)], [expected])
    wrapped = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert_alike([wrapped(image).logits], [expected])
    assert wrapped.config.id2label[1] == "class 1"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "pvig_ti"
    assert "license" not in config["pretrained_cfg"]  # the file does not say


def test_only_safetensors_are_written_and_nothing_is_left_over(files, tmp_path):
    convert_checkpoint(files / "gkgnet.pth", tmp_path / "out", "timm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.pth", "out"], "No checkpoint file at nowhere.pth"),
        (["gkgnet.pth", "full"], "full must be a new or an empty folder"),
        (["gkgnet.pth", "names.txt"], "names.txt must be a new or an empty folder"),
        (["gkgnet.pth", "out", "--labels", "voc"], "the checkpoint's 6 labels in order, got 20"),
        (["gkgnet.pth", "out", "--labels", "imagenet"], "coco, voc or a file with a name on each line, got imagenet"),
        (["gkgnet.pth", "out", "--labels", "twice.txt"], "must name each label once, got twice: a"),
        (["gkgnet.pth", "out", "--labels", "names.txt", "--format", "timm"], "labels are for a classifier"),
        (["gkgnet.pth", "out", "--format", "timm", "--check-labels", "photos"], "--check-labels needs the classifier"),
        (["gkgnet.pth", "out", "--check-labels", "./photos"], "There is no file or folder ./photos"),
        (["pvig.pth.tar", "out"], "pvig.pth.tar is of Pyramid ViG"),
        (["pvig.pth.tar", "out", "--format", "timm", "--labels", "coco"], "1000 classes in order, got 80"),
        (["foreign.pth", "out"], "must be a released GKGNet file"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_leaves_no_folder(run, files, words, message):
    (files / "full").mkdir(exist_ok=True)
    (files / "full" / "file").touch()
    (files / "twice.txt").write_text("a\nb\na\n")
    torch.save({"weight": torch.zeros(1)}, files / "foreign.pth")
    code, out, err = run("convert", *words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (files / "out").exists()
    assert not list(files.glob("_writing-*"))


def test_labels_are_checked_against_a_dataset(run, files):
    photos = files / "photos"
    photos.mkdir()
    rows = ["file_name," + ",".join(NAMES)]
    for i in range(6):
        Image.fromarray(np.full((40, 40, 3), 40 * i, dtype=np.uint8)).save(photos / f"{i}.png")
        rows.append(f"{i}.png," + ",".join("1" if i == label else "0" for label in range(6)))
    (photos / "metadata.csv").write_text("\n".join(rows))
    words = ("--labels", "names.txt", "--check-labels", "photos", "--split", "train")
    code, out, _ = run("convert", "gkgnet.pth", "checked", *words)
    assert code == 0
    assert "order" in out
    assert "mAP" in out


def test_a_dataset_of_other_labels_is_refused_before_anything_is_written(run, files, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    table = tmp_path / "table.csv"
    table.write_text("file_name,labels\nphoto.png,a|b\n")
    code, _, err = run("convert", "gkgnet.pth", "unchecked", "--check-labels", str(table), "--split", "all")
    assert code == 2
    assert "must have the model's 6 labels, it has 2" in err
    assert not (files / "unchecked").exists()


def test_a_permutation_of_the_labels_is_found():
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 8)) < 0.3).astype(np.float32)
    permutation = rng.permutation(8)
    scores = (targets + rng.normal(0, 0.3, targets.shape))[:, permutation]
    targets[rng.random(targets.shape) < 0.1] = -1
    best = best_label_order(scores, targets)
    assert best.order == permutation.tolist()
    assert best.best_map > 90 > best.given_map
    text = best.describe([f"label {i}" for i in range(8)])
    assert f"{best.best_map:.1f} in the order that fits best" in text
    moved = next(i for i, label in enumerate(permutation) if i != label)
    assert f"output {moved}: label {moved} (AP " in text
    assert f"→ label {permutation[moved]} (AP " in text


def test_the_right_order_stays():
    targets = np.eye(4)[[0, 1, 2, 3] * 5]
    best = best_label_order(targets, targets)
    assert best.order == [0, 1, 2, 3]
    assert best.given_map == best.best_map == 100
    assert best.describe(list("abcd")) == (
        "No other order of the labels fits better: mAP 100.0 (4 of 4 labels have positive images)"
    )


def test_labels_without_positives_stay_or_take_what_is_left():
    targets = np.zeros((30, 4))
    targets[:15, 0] = targets[10:20, 1] = 1
    targets[:, 3] = -1
    scores = np.full((30, 4), 0.5)
    scores[:, :2] = targets[:, :2]
    assert best_label_order(scores, targets).order == [0, 1, 2, 3]
    swapped = best_label_order(scores[:, [2, 1, 0, 3]], targets)
    assert swapped.order == [2, 1, 0, 3]
    text = swapped.describe(list("abcd"))
    assert "output 0: a (AP 50.0) → c (AP none)" in text
    assert "2 labels move (2 of 4 labels have positive images):" in text


def test_an_order_that_cannot_be_told_is_an_error():
    with pytest.raises(ValueError, match=r"must both be \(images, labels\), got \(3, 2\) and \(3, 4\)"):
        best_label_order(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="No label of the 3 images has a positive"):
        best_label_order(np.zeros((3, 2)), np.zeros((3, 2)))


def test_label_sets():
    assert (len(COCO_LABELS), len(set(COCO_LABELS))) == (80, 80)
    assert (COCO_LABELS[0], COCO_LABELS[16], COCO_LABELS[79]) == ("person", "dog", "toothbrush")
    assert read_labels("voc")[-1] == "tvmonitor"
