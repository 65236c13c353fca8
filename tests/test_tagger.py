"""The layout of tagger tools: what dghs-imgutils' generic loader reads, without changes."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.predict import predict_scores
from gkgnet_hf.tagger import export_tagger

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
NAMES = ["cat", "dog", "=1+1", "a, b"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GKGNetConfig(
        hidden_sizes=(8, 16), depths=(1, 1), pooling_ratios=(2, 1), num_label_blocks=(1, 1), image_size=64,
        id2label=dict(enumerate(NAMES)), decision_threshold=[0.5, 0.25, 0.5, 0.75],
    )  # fmt: skip
    model = GKGNetForImageClassification(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1 or "classifier" in name:
                tensor.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("tagger")
    (place / "labels.csv").write_text("label,category,threshold,exclude\ncat,animal,0.125,\ndog,animal,,yes\n")
    processor = create_image_processor(model.config)
    return export_tagger(model, processor, place / "out", place / "labels.csv", counts={"cat": 7})


def test_the_tables_say_what_each_output_is(folder):
    with (folder / "selected_tags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    assert [row["tag_id"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["best_threshold"] for row in rows] == ["0.125", "1.01", "0.5", "0.75"]
    assert [row["count"] for row in rows] == ["7", "0", "0", "0"]
    categories = {row["category"]: row["name"] for row in json.loads((folder / "categories.json").read_text())}
    assert [categories[int(row["category"])] for row in rows] == ["animal", "animal", "general", "general"]


def test_the_file_gives_embedding_logits_and_scores(folder, model):
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert [each.name for each in session.get_inputs()] == ["input"]
    steps = json.loads((folder / "preprocess.json").read_text())["test"]
    assert [step["type"] for step in steps] == ["convert_rgb", "resize", "to_tensor", "normalize"]
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    resized = photo.resize(tuple(reversed(steps[1]["size"])), Image.Resampling.BICUBIC)
    values = (np.asarray(resized, dtype=np.float32) / 255 - steps[3]["mean"]) / steps[3]["std"]
    pixels = values.transpose(2, 0, 1)[None].astype(np.float32)
    found = dict(zip(("embedding", "logits", "prediction"), session.run(None, {"input": pixels}), strict=True))
    assert [each.name for each in session.get_outputs()] == list(found)
    assert found["embedding"].shape == (1, 16)
    np.testing.assert_allclose(found["prediction"], 1 / (1 + np.exp(-found["logits"])), rtol=1e-5)
    expected = predict_scores(model, create_image_processor(model.config), [photo])
    np.testing.assert_allclose(found["prediction"], expected, atol=0.02)


def test_dghs_imgutils_reads_the_folder(folder, model, monkeypatch):
    module = pytest.importorskip("imgutils.generic.multilabel_timm")

    def download(repo_id, filename, **_):
        if not (folder / filename).is_file():
            raise module.EntryNotFoundError(filename)
        return str(folder / filename)

    monkeypatch.setattr(module, "hf_hub_download", download)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    tagger = module.MultiLabelTIMMModel("me/tagger")
    scores = tagger.predict(photo, thresholds=0.0, fmt="tag")
    expected = predict_scores(model, create_image_processor(model.config), [photo])[0]
    assert scores == pytest.approx(dict(zip(NAMES, expected.tolist(), strict=True)), abs=0.02)
    assert "dog" not in tagger.predict(photo, fmt="tag")


def test_a_processor_without_a_name_in_the_layout_is_refused(model, tmp_path):
    processor = create_image_processor(model.config)
    processor.size = {"longest_edge": 64}
    with pytest.raises(ValueError, match="no steps for ViTImageProcessor with size"):
        export_tagger(model, processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()
