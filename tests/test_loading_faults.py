"""What save_pretrained wrote loads as in transformers; a damaged or foreign file is one clear error."""

import json
import re
import shutil

import pytest
import timm
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
)

from gkgnet_hf import GKGNetBackbone, GKGNetConfig, GKGNetForImageClassification, GKGNetModel

from .test_models import NUM_LABELS, WIDTHS, small_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    GKGNetForImageClassification(small_config()).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def flip(content, position, bit=1):
    return content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: flip(content, 0),  # length of the header
        lambda content: flip(content, content.index(b"shape")),
        lambda content: flip(content, content.index(b"F32"), bit=4),  # B32, no dtype
    ],
    ids=["empty", "header cut", "tensors cut", "length flipped", "key flipped", "dtype flipped"],
)
def test_a_damaged_file_names_its_folder(folder, damage):
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(ValueError, match=rf"weights in {folder} cannot be read: .*header"):
        AutoModelForImageClassification.from_pretrained(folder)


@pytest.fixture
def warnings(caplog, monkeypatch):
    """Messages that transformers and this package log."""
    monkeypatch.setattr(transformers.logging.get_logger(), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_flipped_name_is_a_missing_tensor(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(flip(content, content.index(b"patch_classifier.bias")))
    with pytest.raises(ValueError, match=r"1 tensors of the network .* are missing in .*: patch_classifier\.bias$"):
        AutoModelForImageClassification.from_pretrained(folder)


def test_another_number_of_labels_names_the_tensors_and_both_shapes(folder):
    message = (
        rf"^5 tensors in {re.escape(str(folder))} have another shape than the network that was asked for: "
        r".*label_classifier\.bias is \(5,\), not \(9,\).*\. "
        r"Pass ignore_mismatched_sizes=True to start them at random\.$"
    )
    with pytest.raises(ValueError, match=message):
        GKGNetForImageClassification.from_pretrained(folder, num_labels=9)
    rewrite(folder, id2label={str(i): str(i) for i in range(9)})
    with pytest.raises(ValueError, match=message):
        AutoModelForImageClassification.from_pretrained(folder)
    assert GKGNetForImageClassification.from_pretrained(folder, ignore_mismatched_sizes=True).num_labels == 9


def test_another_image_size_names_what_keeps_the_position_embedding(folder):
    with pytest.raises(ValueError, match=r"stem\.pos_embed is .*create_model\(labels, model, image_size\) resizes it"):
        GKGNetForImageClassification.from_pretrained(folder, image_size=96)


@pytest.mark.parametrize(
    ("load", "settings", "tensor"),
    [
        (AutoModelForImageClassification, dict(depths=[1, 1, 3, 1]), r"gkgnet\.backbone\.stages\.2\.blocks\.2\."),
        (AutoModel, dict(depths=[1, 1, 3, 1]), r"backbone\.stages\.2\.blocks\.2\."),
        (GKGNetBackbone, dict(depths=[1, 1, 3, 1]), r"backbone\.stages\.2\.blocks\.2\."),
        (AutoModelForImageClassification, dict(num_label_blocks=[1, 1, 2, 1]), r"label_stages\.2\.blocks\.1\."),
    ],
)
@pytest.mark.parametrize("ignore", [False, True])
def test_a_larger_network_than_the_weights_is_never_random_in_part(folder, load, settings, tensor, ignore):
    rewrite(folder, **settings)
    with pytest.raises(ValueError, match=rf"are missing in {re.escape(str(folder))}: [\w.]*{tensor}"):
        load.from_pretrained(folder, ignore_mismatched_sizes=ignore)
    _, report = load.from_pretrained(folder, output_loading_info=True)
    assert report["missing_keys"]


def test_tensors_that_the_model_has_no_place_for_are_named_in_transformers_warning(folder, warnings):
    rewrite(folder, depths=[1, 1, 1, 1])
    AutoModelForImageClassification.from_pretrained(folder)
    assert any("UNEXPECTED" in text and "stages.2.blocks.1.ffn" in text for text in warnings())


@pytest.mark.parametrize("load", [GKGNetModel, GKGNetBackbone])
def test_what_a_class_leaves_out_by_its_nature_is_no_error(folder, load):
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in load.from_pretrained(folder).state_dict().items():
        assert torch.equal(tensor, tensors[f"gkgnet.{name}"])


@pytest.mark.parametrize(
    ("saved_class", "load", "fresh"),
    [
        (GKGNetModel, AutoModelForImageClassification, "classifier"),
        (GKGNetBackbone, AutoModelForImageClassification, "label_stages"),
        (GKGNetBackbone, AutoModel, "label_embedding"),
    ],
)
def test_a_checkpoint_without_head_gives_a_warning_and_a_fresh_head(saved_class, load, fresh, tmp_path, warnings):
    body = saved_class(small_config())
    body.save_pretrained(tmp_path)
    model = load.from_pretrained(tmp_path)
    assert any("MISSING" in text and fresh in text for text in warnings())
    loaded = model.base_model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in body.state_dict().items())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_label_nodes_may_be_added_to_patch_nodes_that_were_trained_alone(tmp_path):
    GKGNetForImageClassification(small_config(num_label_blocks=(0, 0, 0, 0))).save_pretrained(tmp_path)
    model = GKGNetForImageClassification.from_pretrained(tmp_path, num_label_blocks=[1, 1, 1, 1])
    assert model.gkgnet.label_embedding is not None
    tensors = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in tensors.items())


class WithCounter(GKGNetForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        self.counter = torch.nn.Linear(config.hidden_sizes[-1], 1)
        self.post_init()


SAVED = {
    "as it is": lambda: GKGNetForImageClassification(small_config()),
    "base": lambda: GKGNetModel(small_config()),
    "backbone": lambda: GKGNetBackbone(small_config(out_indices=[2, 4])),
    "bfloat16": lambda: GKGNetForImageClassification(small_config()).bfloat16(),
    "float16": lambda: GKGNetForImageClassification(small_config()).half(),
    "float64": lambda: GKGNetForImageClassification(small_config()).double(),
    "some label blocks": lambda: GKGNetForImageClassification(small_config(num_label_blocks=(0, 2, 0, 1))),
    "no label blocks": lambda: GKGNetForImageClassification(small_config(num_label_blocks=(0, 0, 0, 0))),
    "one label": lambda: GKGNetForImageClassification(small_config(num_labels=1)),
    "twelve labels": lambda: GKGNetForImageClassification(small_config(num_labels=12)),
    "thresholds": lambda: GKGNetForImageClassification(small_config(decision_threshold=[0, 0.25, 1 / 3, 0.9, 1])),
    "grey": lambda: GKGNetForImageClassification(small_config(num_channels=1)),
    "more modules": lambda: WithCounter(small_config()),
}


@pytest.mark.parametrize("shards", ["10MB", "100kB"])
@pytest.mark.parametrize("name", SAVED)
def test_what_was_saved_loads_to_the_bit(name, shards, tmp_path):
    model = SAVED[name]()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_()
    model.save_pretrained(tmp_path, max_shard_size=shards)
    loaded = type(model).from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == model.dtype
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()


def test_a_subclass_and_its_parent_load_each_others_weights(tmp_path, warnings):
    WithCounter(small_config()).save_pretrained(tmp_path / "child")
    GKGNetForImageClassification.from_pretrained(tmp_path / "child")
    assert any("UNEXPECTED" in text and "counter" in text for text in warnings())
    GKGNetForImageClassification(small_config()).save_pretrained(tmp_path / "parent")
    WithCounter.from_pretrained(tmp_path / "parent")
    assert any("MISSING" in text and "counter" in text for text in warnings())


def test_labels_changed_after_training_are_saved_and_loaded(folder, tmp_path):
    model = GKGNetForImageClassification.from_pretrained(folder)
    model.config.id2label = {str(i): f"label {i}" for i in range(NUM_LABELS)}
    model.save_pretrained(tmp_path / "renamed")
    assert GKGNetConfig.from_pretrained(tmp_path / "renamed").id2label[3] == "label 3"


def test_another_kind_of_model_is_refused(tmp_path):
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="are missing in"):
        GKGNetForImageClassification.from_pretrained(tmp_path)


def test_pickled_weights_are_read_only_when_asked_for(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    for asked in ({}, {"use_safetensors": None}):
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            AutoModelForImageClassification.from_pretrained(folder, **asked)
    model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(model.patch_classifier.bias, tensors["patch_classifier.bias"])


@pytest.fixture
def pickled(tmp_path):
    """A timm model's folder with pickled weights, and its classifier's bias."""
    arguments = {"embed_dims": WIDTHS, "depths": (1, 1, 1, 1)}
    model = timm.create_model("gkgnet_s", **arguments)
    folder = tmp_path / "pickled"
    timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=False)
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    arguments.pop("num_classes", None)  # timm 1.0.31 writes it, the wrapper of transformers 5.23 stumbles over it
    rewrite(folder, model_args=arguments)
    return folder, model.head.fc.bias


def test_pickled_weights_are_read_by_timm_only_when_named(pickled):
    folder, bias = pickled
    with pytest.raises(FileNotFoundError, match=rf"{folder} must hold model\.safetensors"):
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert timm.create_model(f"local-dir:{folder}").head.fc.bias.shape == bias.shape
    file = str(folder / "pytorch_model.bin")
    named = dict(pretrained_cfg_overlay=dict(file=file), embed_dims=WIDTHS, depths=(1, 1, 1, 1))
    assert torch.equal(timm.create_model("gkgnet_s", pretrained=True, **named).head.fc.bias, bias)
    by_path = timm.create_model(f"local-dir:{folder}", checkpoint_path=file)
    assert torch.equal(by_path.head.fc.bias, bias)


def test_pickled_weights_are_read_by_the_wrapper_of_transformers_unless_told_not_to(pickled):
    folder, bias = pickled
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True)
    model = AutoModelForImageClassification.from_pretrained(folder)  # transformers' own code alone
    assert torch.equal(model.timm_model.head.fc.bias, bias)


def test_a_missing_shard_is_named(tmp_path):
    GKGNetForImageClassification(small_config()).save_pretrained(tmp_path, max_shard_size="200kB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        AutoModelForImageClassification.from_pretrained(tmp_path)


def rewrite(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("depths", "2222", "expected a list, got str"),
        ("image_size", "64", "expected int, got str"),
        ("num_neighbors", 9.5, "expected int, got float"),
        ("drop_path_rate", None, "expected float, got NoneType"),
        ("problem_type", "several", "got several"),
        ("id2label", ["cat"], "must be a mapping of ids to names, got a list"),
        ("label2id", ["cat"], "must be a mapping of names to ids, got a list"),
        ("id2label", {"0": None}, "must be a mapping of ids to names, got '0': None"),
        ("gkgnet_hf_version", 1, "expected str, got int"),
        ("id2label", {"first": "cat"}, r"must name the labels 0 to 0, got \['first'\]"),
        ("id2label", {"1": "cat", "2": "dog"}, r"must name the labels 0 to 1, got \['1', '2'\]"),
        ("num_labels", "5", "must be an integer, got '5'"),
        ("num_labels", 9, f"must be {NUM_LABELS}, as many as id2label names, got 9"),
    ],
)
def test_a_wrong_field_is_named(folder, field, value, message):
    rewrite(folder, **{field: value})
    with pytest.raises((ValueError, StrictDataclassError), match=rf"(?s){field}.*{message}"):
        AutoModelForImageClassification.from_pretrained(folder)


def test_fields_of_transformers_and_its_tools_are_kept_in_silence(folder, caplog, monkeypatch):
    monkeypatch.setattr(transformers.logging.get_logger(), "propagate", True)
    others = {
        "transformers.js_config": {"dtype": "q8"},
        "custom_pipelines": {},
        "tie_word_embeddings": False,
        "finetuning_task": "digits",
    }
    rewrite(folder, torch_dtype="float32", _name_or_path="elsewhere", output_attentions=False, **others)
    model = AutoModelForImageClassification.from_pretrained(
        folder, attn_implementation="eager", dtype="auto", trust_remote_code=False
    )
    assert model.config.num_labels == NUM_LABELS
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    assert {name: written.get(name) for name in others} == others
    assert "no such fields" not in caplog.text


@pytest.mark.parametrize("load", [AutoModelForImageClassification, AutoConfig, GKGNetBackbone])
def test_unknown_fields_are_named_once_a_load_and_kept(folder, load, warnings):
    rewrite(folder, a_field_of_tomorrow=1, num_neighbours=3, depth=[1], out_feature=["stem"], num_classes=2)
    loaded = load.from_pretrained(folder)
    warning = (
        "GKGNetConfig has no such fields, they change nothing: a_field_of_tomorrow, depth (did you mean depths?), "
        "num_classes (did you mean num_labels?), num_neighbours (did you mean num_neighbors?), "
        "out_feature (did you mean out_features?)"
    )
    assert warnings().count(warning) == 1
    assert getattr(loaded, "config", loaded).num_labels == NUM_LABELS
    loaded.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["num_neighbours"] == 3


def test_an_unknown_argument_of_the_configuration_is_named_too(warnings):
    assert GKGNetConfig(num_neighbours=3).num_neighbors == 9
    assert warnings() == [
        "GKGNetConfig has no such fields, they change nothing: num_neighbours (did you mean num_neighbors?)"
    ]


def test_a_configuration_that_is_no_json_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(OSError, match=r"config\.json' is not a valid JSON file"):
        GKGNetConfig.from_pretrained(folder)
