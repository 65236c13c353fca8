"""Scenes, COCO files and trainer: the path a COCO user takes."""

import json

import numpy as np
import pytest
from PIL import Image

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.data.digits import make_digits
from gkgnet_hf.training import MultiLabelTrainer, MultiLabelTrainingArguments, TransformedDataset, load_coco
from gkgnet_hf.training.transforms import eval_transform

from .test_models import small_config


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp("digits"), num_train=60, num_validation=40, image_size=64)


def instances(scenes, split):
    return json.loads((scenes / "annotations" / f"instances_{split}.json").read_text())


def test_scenes_are_coco_files(scenes):
    content = instances(scenes, "train")
    assert [c["name"] for c in content["categories"]] == list("0123456789")
    assert len(content["images"]) == 60
    for image in content["images"]:
        assert Image.open(scenes / "train" / image["file_name"]).size == (image["width"], image["height"])
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x <= 64 - width
        assert 0 <= y <= 64 - height
        assert 8 <= height <= 32
    assert 2.5 < len(content["annotations"]) / 60 < 3.5


def test_the_same_seed_writes_the_same_scenes_and_validation_differs(scenes, tmp_path):
    again = make_digits(tmp_path, num_train=60, num_validation=40, image_size=64)
    assert instances(again, "val") == instances(scenes, "val")
    assert (again / "train/000001.png").read_bytes() == (scenes / "train/000001.png").read_bytes()
    assert (again / "val/000001.png").read_bytes() != (scenes / "train/000001.png").read_bytes()


def test_no_validation_scene_shows_a_training_digit(tmp_path, monkeypatch):
    shown = {}

    def remember(directory, split, digits, *rest):
        shown[split] = {digit.tobytes() for digit in digits}

    monkeypatch.setattr("gkgnet_hf.data.digits._write_split", remember)
    make_digits(tmp_path)
    assert len(shown["train"]) > 1300
    assert len(shown["val"]) > 400
    assert not shown["train"] & shown["val"]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.txt"):
        make_digits(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_coco_labels_stand_in_category_order(scenes):
    dataset = load_coco(scenes / "train", scenes / "annotations/instances_train.json")
    content = instances(scenes, "train")
    assert dataset.features["label_ids"].feature.names == list("0123456789")
    for row in dataset.select(range(20)):
        present = {a["category_id"] - 1 for a in content["annotations"] if a["image_id"] == row["image_id"]}
        assert set(np.flatnonzero(row["labels"])) == present == set(row["label_ids"])
        assert row["image"].size == (64, 64)


def write_coco(directory, **changes):
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 44, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 1}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 44, "name": "bottle"}],
    }
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(directory / name)
    (directory / "instances.json").write_text(json.dumps({**content, **changes}))
    return directory / "instances.json"


def test_images_without_labels_are_dropped_unless_kept(tmp_path):
    annotations = write_coco(tmp_path)
    dataset = load_coco(tmp_path, annotations)
    assert dataset["image_id"][:] == [7]
    assert dataset["labels"][0].tolist() == [1.0, 0.0]  # by category id, crowds count
    assert dataset.features["label_ids"].feature.names == ["bottle", "toothbrush"]
    kept = load_coco(tmp_path, annotations, keep_unlabeled=True)
    assert kept["image_id"][:] == [3, 7]


def test_wrong_coco_files_are_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load_coco(tmp_path, tmp_path / "nowhere.json")
    (tmp_path / "text.json").write_text("no json")
    with pytest.raises(ValueError, match=r"text\.json is not in COCO's instances format"):
        load_coco(tmp_path, tmp_path / "text.json")
    with pytest.raises(ValueError, match="lists no categories"):
        load_coco(tmp_path, write_coco(tmp_path, categories=[], annotations=[]))
    with pytest.raises(ValueError, match="category 5"):
        load_coco(tmp_path, write_coco(tmp_path, annotations=[{"id": 1, "image_id": 7, "category_id": 5}]))
    annotations = write_coco(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a\.png: the file is missing"):
        load_coco(tmp_path, annotations)


def transformed(dataset, model):
    return TransformedDataset(dataset, eval_transform(create_image_processor(model.config)))


def test_trainer_lowers_the_loss_and_reports_metrics(scenes, tmp_path):
    train = load_coco(scenes / "train", scenes / "annotations/instances_train.json")
    model = GKGNetForImageClassification(small_config(num_labels=10))
    images = transformed(train, model)
    trainer = MultiLabelTrainer(
        model=model,
        args=MultiLabelTrainingArguments(
            output_dir=str(tmp_path),
            max_steps=12,
            learning_rate=3e-3,
            per_device_train_batch_size=10,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=images,
        eval_dataset=images,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert 0 <= after["eval_mAP"] <= 100
    decayed = trainer.get_decay_parameter_names(model)
    assert "gkgnet.backbone.stem.conv1.conv.weight" in decayed
    assert not [name for name in decayed if name.endswith(("bias", "pos_embed")) or ".norm." in name]
