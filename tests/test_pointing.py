"""The pointing game: whether a method's hottest patch, and its heat, lie in a label's boxes."""

import numpy as np
import pytest
import torch
from PIL import Image

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.data import load_coco
from gkgnet_hf.data.digits import make_digits
from gkgnet_hf.data.readers.coco import read_boxes
from gkgnet_hf.evaluation.pointing import Pointing, _inside, _per_patch, pointing_game
from gkgnet_hf.explain import explain


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp("data") / "digits", num_train=1, num_validation=6, image_size=64)


@pytest.fixture(scope="module")
def scenes(digits):
    return load_coco(digits / "val", digits / "annotations" / "instances_val.json")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GKGNetConfig(
        hidden_sizes=(8, 16, 24, 32), depths=(1, 1, 1, 1), image_size=64, id2label={i: str(i) for i in range(10)}
    )
    return GKGNetForImageClassification(config)


@pytest.fixture(scope="module")
def processor(model):
    return create_image_processor(model.config)


@pytest.fixture(scope="module")
def found(model, processor, digits, scenes):
    return pointing_game(model, processor, scenes, read_boxes(digits, "val"))


def test_every_label_of_every_image_is_a_pair(found, scenes, digits):
    boxes = read_boxes(digits, "val")
    assert len(found.labels) == sum(len(boxes[image]) for image in scenes["image_id"])
    assert list(found.hits) == [
        "label nodes", "stage 1", "stage 2", "stage 3", "stage 4",
        "pooled patches", "Grad-CAM", "centre", "random patch",
    ]  # fmt: skip


def test_hits_and_shares_are_those_of_the_heat_map(found, model, processor, scenes, digits):
    boxes = read_boxes(digits, "val")
    pair = 0
    for row in scenes:
        seen = explain(model, processor, row["image"])
        for label, known in boxes[row["image_id"]].items():
            left, top, right, bottom = seen.top_patch(label)
            x, y = (left + right) / 2, (top + bottom) / 2
            hit = any(a <= x < c and b <= y < d for a, b, c, d in np.round(known))
            assert found.hits["label nodes"][pair] == hit
            heat = seen.heat_map(label)
            pixels = np.kron(heat / 16, np.ones((4, 4)))  # the images are as large as what the network sees
            inside = np.zeros((64, 64))
            for a, b, c, d in np.round(known).astype(int):
                inside[b:d, a:c] = 1
            assert found.shares["label nodes"][pair] == pytest.approx((pixels * inside).sum(), abs=1e-5)
            assert found.shares["random patch"][pair] == pytest.approx(inside.mean())
            pair += 1
    assert pair == len(found.labels)


def test_boxes_of_a_larger_image_are_scaled_and_what_was_not_seen_is_cut():
    inside = _inside([(0, 0, 20, 10), (90, 90, 300, 300)], (0, 0, 100, 200), (20, 10))
    assert inside[0, :2].all()
    assert inside[9:, 9].all()
    assert inside.sum() == 2 + 11
    assert not _inside([(0, 0, 10, 10)], (10, 10, 20, 20), (8, 8)).any()


def test_a_cut_patch_counts_the_pixels_it_has():
    coverage, centers = _per_patch(np.ones((5, 5), dtype=bool), 4)
    assert coverage.tolist() == [[1, 1], [1, 1]]
    assert centers.all()


def test_the_table_has_a_row_for_each_group_that_has_pairs():
    hits = {"label nodes": np.array([1.0, 0.0]), "centre": np.array([0.0, 0.0])}
    pointing = Pointing(
        ["cat", "dog", "small"], np.array([0, 2]), np.array([0.9, 0.1]), np.array(["small", "large"]), hits, hits,
        np.full(3, 0.5),
    )  # fmt: skip
    table = pointing.to_dict()
    assert list(table) == ["all", "predicted", "small", "large", "labels"]
    assert table["labels"]["cat"] == table["small"] != table["labels"]["small"]  # a label called as a group is
    assert table["all"]["hits"] == {"label nodes": 50, "centre": 0}
    assert table["predicted"]["pairs"] == 1
    assert "50.0 / 50.0" in str(pointing).splitlines()[2]
    assert len(str(pointing).splitlines()) == 2 + 4 + 2


def test_wrong_input_is_named(model, processor, scenes, digits):
    with pytest.raises(ValueError, match="must have a column image_id"):
        pointing_game(model, processor, scenes.remove_columns("image_id"), {})
    with pytest.raises(ValueError, match="No image of the dataset has a box"):
        pointing_game(model, processor, scenes, {})
    with pytest.raises(ValueError, match="no COCO file with boxes for the split test; it has"):
        read_boxes(digits, "test")
    config = GKGNetConfig(**{**model.config.to_dict(), "num_label_blocks": (0, 0, 0, 0)})
    with pytest.raises(ValueError, match="no label nodes"):
        pointing_game(GKGNetForImageClassification(config), processor, scenes, {})


def test_an_instance_without_a_box_is_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "instances_val.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}], '
        '"annotations": [{"id": 7, "image_id": 1, "category_id": 1, "area": 3}]}'
    )
    with pytest.raises(ValueError, match="annotation 7 has no bbox"):
        read_boxes(tmp_path, "val")
