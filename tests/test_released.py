"""Other people's files: released GKGNet, Pyramid ViG, timm."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from gkgnet_hf import (
    GKGNetBackbone,
    GKGNetForImageClassification,
    GKGNetModel,
    load_backbone_checkpoint,
    load_released_checkpoint,
)
from gkgnet_hf.modeling.vision_gnn import position_bias_reference

from .base import assert_alike
from .drawing import draw_checkpoint, draw_image
from .test_models import WIDTHS, small_config

RELEASED = "gkgnet_t_224_labels80"


@pytest.fixture(scope="module")
def tensors():
    return draw_checkpoint(RELEASED, seed=1, num_labels=6)


def with_position_bias(tensors):
    bias = {
        f"backbone.backbone.{block}.0.relative_pos": position_bias_reference(56, 56, 48, 4)[None] for block in (0, 1)
    }
    bias["backbone.backbone.6.0.relative_pos"] = position_bias_reference(14, 14, 240, 1)[None]
    return {**tensors, **{name: value.float() for name, value in bias.items()}}


@pytest.mark.parametrize("form", ["plain", "state_dict", "module", "safetensors"])
def test_every_form_of_file_loads(tensors, tmp_path, form):
    path = tmp_path / "checkpoint.pth"
    if form == "plain":
        torch.save(tensors, path)
    elif form == "state_dict":
        torch.save({"epoch": 3, "state_dict": tensors}, path)
    elif form == "module":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, path)
    else:
        path = tmp_path / "checkpoint.safetensors"
        save_file(tensors, path)
    model = load_released_checkpoint(path, labels=list("abcdef"))
    assert not model.training
    assert model.config.id2label == dict(enumerate("abcdef"))
    assert model.config.hidden_sizes == (48, 96, 240, 384)
    assert model.config.image_size == 224
    image = draw_image((1, 3, 224, 224), 1)
    assert_alike([model(image).logits], [load_released_checkpoint(tensors)(image).logits])


def test_stored_position_bias_is_checked_and_dropped(tensors):
    stored = with_position_bias(tensors)
    model = load_released_checkpoint(stored)
    assert not [name for name, _ in model.named_buffers() if "relative" in name]
    wrong = stored["backbone.backbone.0.0.relative_pos"].clone()
    wrong[0, 5, 7] += 0.5
    with pytest.raises(ValueError, match=r"backbone\.backbone\.0\.0\.relative_pos.*closed form.*difference of 0\.5"):
        load_released_checkpoint({**stored, "backbone.backbone.0.0.relative_pos": wrong})
    with pytest.raises(ValueError, match=r"relative_pos must be \(1, 196, 196\), got \(1, 3136, 196\)"):
        load_released_checkpoint({**stored, "backbone.backbone.6.0.relative_pos": wrong})


def test_missing_extra_and_misshapen_tensors_are_listed(tensors):
    damaged = dict(tensors)
    del damaged["backbone.stem.convs.0.weight"]
    damaged["backbone.surprise"] = torch.zeros(1)
    damaged["head.fc2.weight"] = torch.zeros(6, 100)
    with pytest.raises(ValueError, match="does not fit") as error:
        load_released_checkpoint(damaged)
    message = str(error.value)
    assert "1 missing: gkgnet.backbone.stem.conv1.conv.weight" in message
    assert "1 unexpected: backbone.surprise" in message
    assert "head.fc2.weight (expected (6, 384), got (6, 100))" in message


def test_nothing_is_taken_twice_or_under_a_foreign_name(tensors):
    weight = tensors["backbone.stem.convs.0.weight"]
    with pytest.raises(ValueError, match=r"twice.*head\.fc2\.bias"):
        load_released_checkpoint({**tensors, "patch_classifier.bias": tensors["head.fc2.bias"]})
    with pytest.raises(ValueError, match=r"1 unexpected: stem\.convs\.0\.weight"):
        load_released_checkpoint({**tensors, "stem.convs.0.weight": weight})
    with pytest.raises(ValueError, match="these are none: epoch"):
        load_released_checkpoint({**tensors, "epoch": 3})


def test_a_foreign_or_unreadable_checkpoint_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"Not a released GKGNet checkpoint.*label_lt"):
        load_released_checkpoint(draw_checkpoint("pvig_ti_224", seed=0))
    with pytest.raises(ValueError, match=r"mapping of names to tensors, got a mapping with keys \['a'\]"):
        load_released_checkpoint({"a": 1})
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read"):
        load_released_checkpoint(tmp_path / "text.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_released_checkpoint(tmp_path / "nowhere.pth")


def test_a_wrong_number_of_label_names_is_an_error(tensors):
    with pytest.raises(ValueError, match="6 labels in order, got 2"):
        load_released_checkpoint(tensors, labels=["a", "b"])


@pytest.mark.parametrize("model_class", [GKGNetForImageClassification, GKGNetModel, GKGNetBackbone])
def test_a_timm_model_starts_the_patch_nodes(model_class):
    source = timm.create_model("gkgnet_s", embed_dims=WIDTHS, depths=(1, 1, 2, 1), img_size=96, num_classes=3)
    model = model_class(small_config()).eval()
    torch.nn.init.normal_(source.stem.pos_embed)
    load_backbone_checkpoint(model, source.state_dict())
    backbone = model.base_model.backbone.eval()
    source.set_input_size(64)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone.forward_features(image), source.eval().forward_features(image))


def test_a_timm_model_of_another_size_is_refused():
    source = timm.create_model("gkgnet_s", embed_dims=(16, 24, 40, 64), depths=(1, 1, 2, 1))
    with pytest.raises(ValueError, match=r"of another shape: stages\.3.*expected \(48, .*got \(64"):
        load_backbone_checkpoint(GKGNetModel(small_config()), source.state_dict())
