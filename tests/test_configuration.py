import json

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification
from gkgnet_hf.hub.card import create_model_card
from gkgnet_hf.predict import model_label_names

from .test_models import small_config


@pytest.mark.parametrize(
    ("variant", "hidden_sizes", "depths"),
    [
        ("ti", (48, 96, 240, 384), (2, 2, 6, 2)),
        ("s", (80, 160, 400, 640), (2, 2, 6, 2)),
        ("m", (96, 192, 384, 768), (2, 2, 16, 2)),
        ("b", (128, 256, 512, 1024), (2, 2, 18, 2)),
    ],
)
def test_variants_have_the_sizes_of_the_paper(variant, hidden_sizes, depths):
    config = GKGNetConfig.from_variant(variant, image_size=576)
    assert (config.hidden_sizes, config.depths, config.image_size) == (hidden_sizes, depths, 576)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="'xl'"):
        GKGNetConfig.from_variant("xl")


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        (dict(depths=(2, 2, 2)), "hidden_sizes", r"\(80, 160, 400, 640\)"),
        (dict(pooling_ratios=(4, 2)), "pooling_ratios", r"\(4, 2\)"),
        (dict(num_label_blocks=(1,)), "num_label_blocks", r"\(1,\)"),
        (dict(num_groups=3), "num_groups=3", "80"),
        (dict(num_label_groups=7), "num_label_groups=7", "80"),
        (dict(hidden_sizes=(6, 12, 24, 48)), "hidden_sizes", "6"),
        (dict(num_neighbors=0), "num_neighbors", "0"),
        (dict(num_groups=0), "num_groups", "0"),
        (dict(depths=(2, 0, 6, 2)), "depths", r"\(2, 0, 6, 2\)"),
        (dict(depths=(), hidden_sizes=(), pooling_ratios=(), num_label_blocks=()), "depths", r"\(\)"),
        (dict(num_label_blocks=(1, -1, 1, 1)), "num_label_blocks", "-1"),
        (dict(image_size=16), "image_size", "16"),
        (dict(pooling_ratios=(100, 2, 1, 1)), "image_size must be at least 400", "224"),
        (dict(gamma_positive=float("nan")), "gamma_positive", "nan"),
        (dict(num_labels=0), "num_labels must be at least 1", "0"),
        (dict(id2label=["a", "b"]), "id2label", "must be a mapping of ids to names, got a list"),
        (dict(id2label={}), "num_labels must be at least 1", "0"),
        (dict(num_labels=3, id2label={0: "a", 1: "b"}), "num_labels must be 2, as many as id2label names", "3"),
        (dict(image_size=[224]), "image_size", r"\[224\]"),
        (dict(drop_path_rate=1.0), "drop_path_rate", "1.0"),
        (dict(label_smoothing=-0.1), "label_smoothing", "-0.1"),
        (dict(gamma_negative=-1.0), "gamma_negative", "-1.0"),
        (dict(hill_lambda=-1.0), "hill_lambda", "-1.0"),
        (dict(correction_threshold=1.5), "correction_threshold", "1.5"),
        (dict(out_features=["stage9"]), "out_features", "stage9"),
        (dict(decision_threshold=1.5), "decision_threshold", "1.5"),
        (dict(decision_threshold=[0.5, float("nan")]), "decision_threshold", "nan"),
        (dict(decision_threshold=[0.5, 0.4, 0.3]), "decision_threshold", "one a label, 2, got 3"),
        (dict(decision_threshold="0.5"), "decision_threshold must be one number or one a label", "'0.5'"),
        (dict(decision_threshold=[0.5, None]), "decision_threshold must be one number or one a label", "None"),
        (dict(decision_threshold=[0.5], num_labels=4), "decision_threshold", "one a label, 4, got 1"),
        (dict(decision_threshold=[0.5], id2label={0: "a", 1: "b"}), "decision_threshold", "one a label, 2, got 1"),
    ],
)
def test_a_wrong_combination_names_field_and_value(settings, field, value):
    with pytest.raises(ValueError, match=rf"{field}.*{value}"):
        GKGNetConfig(**settings)


def test_everything_survives_saving(tmp_path):
    config = GKGNetConfig.from_variant(
        "ti", image_size=(96, 160), num_label_blocks=(0, 1, 2, 1), id2label={0: "cat", 1: "dog", 2: "owl"}
    )
    config.save_pretrained(tmp_path)
    reloaded = GKGNetConfig.from_pretrained(tmp_path)
    assert list(reloaded.num_label_blocks) == [0, 1, 2, 1]
    assert reloaded.image_height_width == (96, 160)
    assert reloaded.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert reloaded.problem_type == "multi_label_classification"


@pytest.mark.parametrize("thresholds", [0.5, 0.1, 1, [0, 1, 1], [0, 0.5, 1], [0.1, 1 / 3, float(np.float32(0.7))]])
def test_decision_thresholds_survive_saving_to_the_digit(thresholds, tmp_path):
    GKGNetConfig(num_labels=3, decision_threshold=thresholds).save_pretrained(tmp_path)
    assert GKGNetConfig.from_pretrained(tmp_path).decision_threshold == thresholds


@pytest.mark.parametrize(
    ("thresholds", "kept"),
    [
        ((0.25, 0.5), [0.25, 0.5]),
        (np.float32(0.25), 0.25),
        ([np.float32(0.25), np.float64(0.5)], [0.25, 0.5]),
        (np.array([0.25, 0.5], dtype=np.float32), [0.25, 0.5]),
        (torch.tensor([0.25, 0.5]), [0.25, 0.5]),
    ],
)
def test_decision_thresholds_may_be_tuples_and_numbers_of_numpy_and_torch(thresholds, kept, tmp_path):
    GKGNetConfig(decision_threshold=thresholds).save_pretrained(tmp_path)
    assert GKGNetConfig.from_pretrained(tmp_path).decision_threshold == kept


def test_labels_may_be_counted_by_numpy(tmp_path):
    counted = GKGNetConfig(num_labels=np.int64(3))
    named = GKGNetConfig(id2label={i: f"LABEL_{i}" for i in np.arange(3)})
    inverse = GKGNetConfig(label2id={f"LABEL_{i}": i for i in np.arange(3)})
    for config in (counted, named, inverse):
        config.save_pretrained(tmp_path)
        assert GKGNetConfig.from_pretrained(tmp_path).label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    loaded = GKGNetConfig.from_pretrained(tmp_path, num_labels=np.int64(2))
    assert type(loaded.num_labels) is int


@pytest.mark.parametrize("labels", [dict(num_labels=2), dict(id2label={0: "a", 1: "b"})], ids=["number", "names"])
def test_thresholds_of_other_labels_go_back_to_one_half_with_a_warning(labels, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(transformers.logging.get_logger(), "propagate", True)
    GKGNetConfig(num_labels=3, decision_threshold=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    config = GKGNetConfig.from_pretrained(tmp_path, **labels)
    assert (config.num_labels, config.decision_threshold) == (2, 0.5)
    assert "decision_threshold goes back to 0.5: it had one for each of 3 labels, now 2" in caplog.text
    fitted = GKGNetConfig.from_pretrained(tmp_path, decision_threshold=[0.4, 0.6], **labels)
    assert fitted.decision_threshold == [0.4, 0.6]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (dict(num_labels=3, id2label={0: "a", 1: "b"}), "num_labels must be 2, as many as id2label names, got 3"),
        (dict(num_labels=0), "num_labels must be at least 1, got 0"),
        (dict(num_labels="3"), "num_labels must be an integer, got '3'"),
    ],
)
def test_labels_of_the_caller_replace_those_of_the_file_if_they_agree(labels, message, tmp_path):
    GKGNetConfig(id2label={0: "cat", 1: "dog", 2: "owl"}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        GKGNetConfig.from_pretrained(tmp_path, **labels)
    config, unused = GKGNetConfig.from_pretrained(tmp_path, num_labels=2, other=1, return_unused_kwargs=True)
    assert (config.id2label, unused) == ({0: "LABEL_0", 1: "LABEL_1"}, {"other": 1})


def test_thresholds_stay_when_labels_are_renamed_or_share_one(caplog):
    config = GKGNetConfig(num_labels=2, decision_threshold=[0.1, 0.2])
    config.id2label = {0: "cat", 1: "dog"}
    assert config.decision_threshold == [0.1, 0.2]
    config.decision_threshold = 0.3
    config.num_labels = 5
    assert config.decision_threshold == 0.3
    assert not caplog.text


def test_a_pyramid_vig_needs_only_even_widths_without_position_bias():
    config = GKGNetConfig(hidden_sizes=(6, 10, 14, 18), use_position_bias=False)
    assert config.hidden_sizes == (6, 10, 14, 18)


NAMES = [f"name {i}" for i in range(12)]  # as text, "10" comes before "2"


@pytest.mark.parametrize(
    "labels",
    [
        dict(id2label={str(i): name for i, name in enumerate(NAMES)}),
        dict(id2label={i: NAMES[i] for i in reversed(range(12))}),
        dict(label2id={name: i for i, name in enumerate(NAMES)}),
        dict(label2id={NAMES[i]: str(i) for i in reversed(range(12))}),
        dict(id2label=dict(enumerate(NAMES)), label2id={name: str(i) for i, name in enumerate(NAMES)}, num_labels=12),
    ],
    ids=["text", "descending", "inverse", "inverse text", "all"],
)
def test_ids_of_labels_are_ascending_numbers_however_they_are_given(labels, tmp_path):
    config = GKGNetConfig(**labels)
    later = GKGNetConfig()
    for name, value in labels.items():
        setattr(later, name, value)
    GKGNetConfig().save_pretrained(tmp_path / "two")
    config.save_pretrained(tmp_path / "twelve")
    found = [config, GKGNetConfig.from_pretrained(tmp_path / "two", **labels)]
    found += [GKGNetConfig.from_pretrained(tmp_path / "twelve"), GKGNetConfig.from_dict(config.to_dict())]
    if "id2label" in labels:
        found.append(later)
    for each in found:
        assert list(each.id2label.items()) == list(enumerate(NAMES))
        assert each.label2id == {name: i for i, name in enumerate(NAMES)}
        assert each.num_labels == 12


def test_names_of_many_labels_are_right_where_they_are_read():
    config = small_config(id2label={str(i): name for i, name in enumerate(NAMES)})
    model = GKGNetForImageClassification(config)
    assert model_label_names(model) == NAMES
    card = create_model_card(config, "many").text
    assert sorted(NAMES, key=card.index) == NAMES
    assert list(json.loads(json.dumps(config.id2label)).values()) == NAMES  # as an ONNX file has them


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (dict(id2label={0: "a", 1: "a", 2: "b"}), "id2label must give every label another name, .*: a$"),
        (dict(id2label={0: "a", 2: "b"}), r"id2label must name the labels 0 to 1, got \[0, 2\]"),
        (dict(id2label={1: "a", 2: "b"}), r"id2label must name the labels 0 to 1, got \[1, 2\]"),
        (dict(label2id={"a": 0, "b": 0}), r"label2id must name the labels 0 to 1, got \[0, 0\]"),
        (dict(id2label={0: "a", 1: "b"}, label2id={"a": 1, "b": 0}), "label2id must be the inverse .* differ in a, b"),
        (dict(id2label={0: "a", 1: "b"}, label2id={"a": 0, "c": 1}), "label2id must be the inverse .* differ in b, c"),
        (dict(label2id={"a": 0}, num_labels=2), "num_labels must be 1, as many as id2label names, got 2"),
    ],
)
def test_labels_that_contradict_each_other_are_an_error(labels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        GKGNetConfig(**labels)
    GKGNetConfig(num_labels=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        GKGNetConfig.from_pretrained(tmp_path, **labels)


@pytest.mark.parametrize("order", [["id2label", "label2id"], ["label2id", "id2label"]])
def test_labels_set_one_after_the_other_may_disagree_in_between_but_not_when_saved(order, tmp_path):
    config = GKGNetConfig(num_labels=3)
    for name in order:
        setattr(config, name, {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}[name])
    config.save_pretrained(tmp_path)
    for name in order:
        setattr(config, name, {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}[name])
    with pytest.raises(StrictDataclassError, match="label2id must be the inverse of id2label, but they differ in a, b"):
        config.save_pretrained(tmp_path)


def test_names_changed_in_place_are_checked_when_saved(tmp_path):
    config = GKGNetConfig(id2label={0: "a", 1: "b"})
    config.id2label[1] = "a"
    with pytest.raises(StrictDataclassError, match="id2label must give every label another name"):
        config.save_pretrained(tmp_path)


def test_other_names_than_the_network_has_labels_are_an_error_before_they_are_saved(tmp_path):
    model = GKGNetForImageClassification(small_config(num_labels=3))
    model.config.id2label = {0: "cat", 1: "dog"}
    for use in (lambda: model.save_pretrained(tmp_path), lambda: model_label_names(model)):
        with pytest.raises(ValueError, match="The network has 3 labels, id2label names 2"):
            use()
    assert not list(tmp_path.iterdir())


def test_label2id_goes_along_with_new_names(tmp_path):
    config = GKGNetConfig(id2label={0: "a", 1: "b"})
    config.id2label = {"0": "c", "1": "d", "2": "e"}
    assert config.label2id == {"c": 0, "d": 1, "e": 2}
    config.num_labels = 2
    assert (config.id2label, config.label2id) == ({0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1})


def test_a_file_whose_label2id_is_stale_loads_with_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(transformers.logging.get_logger(), "propagate", True)
    GKGNetConfig(id2label={0: "a", 1: "b"}).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "label2id": {"LABEL_0": 0, "LABEL_1": 1}}))
    config = GKGNetConfig.from_pretrained(tmp_path)
    assert (config.id2label, config.label2id) == ({0: "a", 1: "b"}, {"a": 0, "b": 1})
    assert "label2id contradicts id2label in this configuration: id2label counts" in caplog.text
