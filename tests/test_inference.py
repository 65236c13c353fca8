"""Scores, predictions and evaluation of a model on images."""

import json
import re

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from PIL import ImageOps
from torch import nn
from transformers import pipeline

from gkgnet_hf import GKGNetForImageClassification, create_image_processor
from gkgnet_hf.evaluation.results import evaluate, evaluate_scores
from gkgnet_hf.predict import find_images, model_label_names, predict, predict_scores
from gkgnet_hf.training import multilabel_metrics

from .test_models import small_config

NAMES = ["cat", "dog", "owl", "fox", "elk"]


def calibrated_model(names):
    """An untrained model whose scores spread over (0, 1)."""
    torch.manual_seed(0)
    config = small_config(num_labels=len(names), id2label=dict(enumerate(names)), initializer_range=0.2)
    model = GKGNetForImageClassification(config).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(16, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return calibrated_model(NAMES)


@pytest.fixture(scope="module")
def processor(model):
    return create_image_processor(model.config)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    directory = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(0, 256, (40 + 5 * i, 50, 3), dtype=np.uint8)
        PILImage.fromarray(pixels).save(directory / f"{i}.png")
    return sorted(directory.iterdir())


@pytest.fixture
def dataset(photos):
    labels = np.random.default_rng(1).integers(-1, 2, (7, 5)).astype(np.float32)
    labels[:, 4] = 0
    return make_dataset(photos, labels, label_areas=np.where(labels == 1, 2000, 0))


def make_dataset(photos, labels, names=NAMES, **extra):
    width = labels.shape[1]
    present = [np.flatnonzero(row == 1) for row in labels]
    columns = {"image": [str(p) for p in photos], "labels": labels, "label_ids": present}
    features = {
        "image": Image(),
        "labels": List(Value("float32"), length=width),
        "label_ids": List(ClassLabel(names=names)),
        **{name: List(Value("float32"), length=width) for name in extra},
    }
    return Dataset.from_dict({**columns, **extra}, features=Features(features))


def test_scores_are_the_sigmoid_of_the_logits(model, processor, photos):
    images = [PILImage.open(p) for p in photos]
    with torch.inference_mode():
        expected = model(processor(images, return_tensors="pt")["pixel_values"]).logits.sigmoid().numpy()
    scores = predict_scores(model, processor, photos, batch_size=3)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert expected.std(0).min() > 0.01  # images differ, so their order is checked too


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "single_label_classification", "regression"])
def test_scores_are_those_of_transformers_pipeline(model, processor, photos, monkeypatch, problem_type):
    monkeypatch.setattr(model.config, "problem_type", problem_type)
    classify = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    scores = predict_scores(model, processor, photos)
    options = {"function_to_apply": "none"} if problem_type == "regression" else {}  # its default in newer releases
    for row, answers in zip(scores, classify([PILImage.open(p) for p in photos], top_k=5, **options), strict=True):
        expected = {answer["label"]: answer["score"] for answer in answers}
        assert dict(zip(NAMES, row.tolist(), strict=True)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_paths_images_and_datasets_score_alike(model, processor, photos, dataset):
    expected = predict_scores(model, processor, photos, batch_size=4)
    for images in ([str(p) for p in photos], [PILImage.open(p) for p in photos], dataset):
        np.testing.assert_array_equal(predict_scores(model, processor, images, batch_size=4), expected)
    transformed = dataset.with_transform(lambda batch: {"nothing": batch["labels"]})
    np.testing.assert_array_equal(predict_scores(model, processor, transformed, 4, num_workers=1), expected)


def test_arrays_of_8_bits_score_as_their_images(model, processor, photos):
    images = [PILImage.open(photos[0]), PILImage.open(photos[0]).convert("L"), PILImage.open(photos[0]).convert("RGBA")]
    arrays = [*map(np.asarray, images), np.asarray(images[1])[..., None]]
    expected = predict_scores(model, processor, [*images, images[1]])
    np.testing.assert_array_equal(predict_scores(model, processor, arrays), expected)


@pytest.mark.parametrize("array", [np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8), np.zeros(8, np.uint8)])
def test_an_array_that_is_no_8_bit_image_is_one_clear_error(model, processor, array):
    with pytest.raises(ValueError, match=rf"8-bit image.*, got {array.dtype} of shape {re.escape(str(array.shape))}"):
        predict(model, processor, [array])


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 8), b"content", 3, None])
def test_what_is_no_image_is_named_by_its_type(model, processor, image):
    with pytest.raises(TypeError, match=f"got {type(image).__name__}"):
        predict(model, processor, [image])


def test_images_are_read_a_batch_at_a_time(model, processor, photos, monkeypatch):
    opened, seen = [], []

    def load(image):
        opened.append(image)
        return PILImage.new("RGB", (8, 8))

    monkeypatch.setattr("gkgnet_hf.predict.scoring.picture_reader", lambda processor: load)
    hook = model.register_forward_hook(lambda *_: seen.append(len(opened)))
    predict_scores(model, processor, photos, batch_size=3)
    hook.remove()
    assert seen == [3, 6, 7]


def test_no_image_gives_no_score(model, processor):
    assert predict_scores(model, processor, []).shape == (0, 5)
    assert predict(model, processor, []) == []


def test_modes_of_image_and_exif_orientation_do_not_matter(model, processor, photos, tmp_path):
    upright = PILImage.open(photos[0])
    exif = PILImage.Exif()
    exif[0x0112] = 6
    ImageOps.exif_transpose(upright).rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    gray = [upright.convert(mode) for mode in ("L", "RGB", "RGBA")]
    scores = predict_scores(model, processor, [upright, tmp_path / "turned.png", *gray], batch_size=1)
    np.testing.assert_array_equal(scores[1], scores[0])
    np.testing.assert_array_equal(scores[3], scores[0])
    np.testing.assert_array_equal(scores[4], scores[0])


def test_every_part_of_the_model_gets_its_mode_back(processor, photos):
    model = GKGNetForImageClassification(small_config()).train()
    model.gkgnet.backbone.eval()
    modes = [module.training for module in model.modules()]
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    predict_scores(model, processor, photos[:2])
    with pytest.raises(FileNotFoundError):
        predict_scores(model, processor, ["nowhere.png"])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())


def test_a_bfloat16_model_gives_float32_scores(processor, photos):
    model = GKGNetForImageClassification(small_config()).bfloat16()
    scores = predict_scores(model, processor, photos[:2])
    assert scores.dtype == np.float32
    assert len(np.unique(scores)) > 1


def test_nan_names_the_first_image_and_label_in_predict_and_evaluate(model, processor, photos, dataset):
    def diverge(_, inputs, outputs):
        outputs.logits[1, 2] = torch.nan if len(inputs[0]) < 3 else 0  # in the last batch alone, images 5 and 6
        return outputs

    hook = model.register_forward_hook(diverge)
    try:
        for function, images in ((predict_scores, photos), (predict, photos), (evaluate, dataset)):
            with pytest.raises(ValueError, match=r"got NaN for image 6, label 2 .* training diverged"):
                function(model, processor, images, batch_size=5)
    finally:
        hook.remove()


def test_infinite_logits_are_scores_of_zero_and_one(model, processor, photos):
    def saturate(_, inputs, outputs):
        outputs.logits[:, :2] = torch.tensor([torch.inf, -torch.inf])
        return outputs

    hook = model.register_forward_hook(saturate)
    scores = predict_scores(model, processor, photos[:2])
    hook.remove()
    assert scores[:, :2].tolist() == [[1, 0], [1, 0]]


def test_unusable_images_are_one_clear_error(model, processor, photos, tmp_path, dataset):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        predict_scores(model, processor, [photos[0], tmp_path / "nowhere.png"])
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cut\.png: the file is cut off"):
        predict_scores(model, processor, [tmp_path / "cut.png"])
    with pytest.raises(TypeError, match="got str"):
        predict_scores(model, processor, "photo.png")
    with pytest.raises(ValueError, match="column image, it has labels, label_ids"):
        predict_scores(model, processor, dataset.remove_columns(["image", "label_areas"]))


def labels_of(prediction):
    return [entry["label"] for entry in prediction]


def test_predictions_are_the_labels_above_the_threshold_highest_first(model, processor, photos):
    scores = predict_scores(model, processor, photos)
    for row, prediction in zip(scores, predict(model, processor, photos), strict=True):
        assert {entry["label"]: entry["score"] for entry in prediction} == {
            NAMES[i]: float(row[i]) for i in range(5) if row[i] >= 0.5
        }
        assert prediction == sorted(prediction, key=lambda entry: -entry["score"])


def test_top_k_of_a_regression_takes_negative_values_too(model, processor, photos, monkeypatch):
    monkeypatch.setattr(model.config, "problem_type", "regression")
    values = predict_scores(model, processor, photos)
    assert values.min() < 0
    for row, labels in zip(values, predict(model, processor, photos, top_k=5), strict=True):
        assert [label["score"] for label in labels] == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-5)


def test_top_k_ignores_the_threshold_unless_both_are_given(model, processor, photos):
    scores = predict_scores(model, processor, photos)
    order = np.argsort(-scores, axis=1)
    top = predict(model, processor, photos, top_k=2)
    assert [labels_of(p) for p in top] == [[NAMES[i] for i in row[:2]] for row in order]
    assert [len(p) for p in predict(model, processor, photos, top_k=9)] == [5] * 7
    middle = float(np.median(scores))
    both = predict(model, processor, photos, top_k=2, threshold=middle)
    assert [len(p) for p in both] == np.minimum((scores >= middle).sum(1), 2).tolist()
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        predict(model, processor, photos, top_k=0)


def test_thresholds_stored_in_the_configuration_decide(model, processor, photos, tmp_path):
    scores = predict_scores(model, processor, photos)
    thresholds = np.median(scores, axis=0)
    model.config.decision_threshold = thresholds.tolist()
    model.save_pretrained(tmp_path)
    model.config.decision_threshold = 0.5
    reloaded = GKGNetForImageClassification.from_pretrained(tmp_path)
    predicted = [set(labels_of(p)) for p in predict(reloaded, processor, photos)]
    assert predicted == [{NAMES[i] for i in np.flatnonzero(row)} for row in scores >= thresholds]
    assert predict(reloaded, processor, photos, threshold=0.5) == predict(model, processor, photos)
    with pytest.raises(ValueError, match="or 5, one a label"):
        predict(reloaded, processor, photos, threshold=[0.5])


@pytest.mark.parametrize("key", [int, str])
def test_label_names_stand_in_the_order_of_their_ids(key):
    names = [f"label{i}" for i in range(12)]
    id2label = {key(i): names[i] for i in reversed(range(12))}
    model = GKGNetForImageClassification(small_config(id2label=id2label))
    assert model_label_names(model) == names


def test_images_are_found_in_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/notes.txt", "[1]/x.png", ".hidden/y.png", "raw.dat"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def found(paths):
        return [p.as_posix() for p in find_images(paths)]

    assert found("deep") == ["deep/er/c.webp"]
    assert found(["raw.dat", "*.png"]) == ["raw.dat", "b.png"]
    assert found(["b.png", "."]) == ["b.png", "[1]/x.png", "a.JPG", "deep/er/c.webp"]
    assert found(["[1]", tmp_path / "b.png", "./b.png"]) == ["[1]/x.png", (tmp_path / "b.png").as_posix()]
    assert found("**/*.webp") == ["deep/er/c.webp"]


def test_paths_without_images_are_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    for missing in (tmp_path / "nowhere.png", tmp_path / "*.gif"):
        with pytest.raises(FileNotFoundError, match=missing.name.replace("*", r"\*")):
            find_images([missing])
    with pytest.raises(ValueError, match=f"No image in {tmp_path}"):
        find_images([tmp_path])


def test_evaluation_compares_scores_with_labels(model, processor, photos, dataset):
    evaluation = evaluate(model, processor, dataset, batch_size=3)
    scores = predict_scores(model, processor, photos, batch_size=3)
    np.testing.assert_array_equal(evaluation.scores, scores)
    np.testing.assert_array_equal(evaluation.targets, np.array(dataset["labels"][:]))
    assert evaluation.metrics == multilabel_metrics(scores, evaluation.targets)
    assert evaluation.fitted_metrics is None
    assert evaluation.size_metrics["mAP_medium"] == evaluation.metrics["mAP"]
    assert evaluation.num_images == 7
    assert np.isnan(evaluation.per_label["AP"][4])
    assert evaluate(model, processor, dataset.remove_columns("label_areas")).size_metrics is None
    transformed = evaluate(
        model, processor, dataset.with_transform(lambda batch: {"nothing": batch["labels"]}), batch_size=3
    )
    assert transformed.metrics == evaluation.metrics


def test_fitted_thresholds_are_evaluated_beside_one_half(model, processor, dataset):
    before = evaluate(model, processor, dataset)
    model.config.decision_threshold = before.fitted().threshold
    fitted = evaluate(model, processor, dataset)
    model.config.decision_threshold = 0.5
    assert fitted.metrics == before.metrics
    assert (fitted.per_label["F1"] >= before.per_label["F1"])[:4].all()
    assert fitted.fitted_metrics["CR"] == pytest.approx(np.nanmean(fitted.per_label["recall"]))
    assert "fitted" in str(fitted)
    assert "fitted" not in str(before)


def test_an_evaluation_fits_into_a_json_file(model, processor, dataset):
    evaluation = evaluate(model, processor, dataset)
    content = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert content["metrics"] == evaluation.metrics
    assert content["num_images"] == 7
    assert content["random_baseline_mAP"] == evaluation.random_baseline_map
    assert content["size_metrics"]["mAP_small"] is None
    assert [row["label"] for row in content["per_label"]] == NAMES
    assert content["per_label"][4]["AP"] is None
    assert content["per_label"][4]["positives"] == 0
    assert content["per_label"][0]["AP"] == evaluation.per_label["AP"][0]


def test_the_table_names_what_matters(model, processor, dataset, photos):
    evaluation = evaluate(model, processor, dataset)
    lines = str(evaluation).splitlines()
    found = f"mAP {evaluation.metrics['mAP']:.1f} (random baseline {evaluation.random_baseline_map:.1f})"
    assert lines[0] == f"{found} on 7 images, 5 labels"
    assert lines[1].startswith("mAP by object size: small none, medium")
    assert "Labels without a positive, left out of the means: elk" in lines
    assert "Lowest AP" not in str(evaluation)
    metrics = evaluation.metrics
    assert next(line.split() for line in lines if "CF1" in line) == [
        "CF1",
        f"{metrics['CF1']:.1f}",
        f"{metrics['CF1_top3']:.1f}",
    ]


def test_the_worst_of_many_labels_are_listed(processor, photos):
    names = [f"label{i}" for i in range(12)]
    model = calibrated_model(names)
    labels = np.random.default_rng(2).integers(0, 2, (7, 12)).astype(np.float32)
    evaluation = evaluate(model, processor, make_dataset(photos, labels, names))
    lowest = np.argsort(evaluation.per_label["AP"])[0]
    expected = f"Lowest AP: {names[lowest]} {evaluation.per_label['AP'][lowest]:.1f}, "
    line = str(evaluation).splitlines()[-1]
    assert line.startswith(expected)
    assert line.count("label") == 5


def test_a_table_of_ten_thousand_labels_is_short():
    names = [f"tag {i}" for i in range(10_000)]
    scores, targets = np.full((2, len(names)), 0.5, np.float32), np.zeros((2, len(names)), np.float32)
    targets[0, :100] = 1
    table = str(evaluate_scores(scores, targets, names))
    assert "10,000 labels" in table
    assert "tag 119 and 9,880 more" in table
    assert len(table) < 2000


def test_labels_of_another_dataset_are_one_clear_error_before_any_scoring(model, photos, dataset):
    labels = np.zeros((7, 5), dtype=np.float32)
    with pytest.raises(ValueError, match="label 1 of the dataset is 'owl', of the model 'dog'"):
        evaluate(model, None, make_dataset(photos, labels, ["cat", "owl", "dog", "fox", "elk"]))
    with pytest.raises(ValueError, match="the model's 5 labels, it has 2"):
        evaluate(model, None, make_dataset(photos, labels[:, :2], ["cat", "dog"]))
    with pytest.raises(TypeError, match="got IterableDataset"):
        evaluate(model, None, dataset.to_iterable_dataset())
    labels[0, 0] = 1
    with pytest.raises(ValueError, match="areas must be above 0"):
        evaluate(model, None, make_dataset(photos, labels, label_areas=np.zeros_like(labels)))
