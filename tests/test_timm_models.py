"""What timm's own tests do not look at; `make test` runs without timm's source distribution."""

import pytest
import timm
import torch
from timm.data import resolve_data_config

import gkgnet_hf  # noqa: F401
from gkgnet_hf.modeling.vision_gnn import DropPath

from .test_models import WIDTHS

NAMES = [f"{family}_{variant}" for family in ("gkgnet", "pvig") for variant in ("ti", "s", "m", "b")]
SMALL = dict(embed_dims=WIDTHS, depths=(1, 1, 2, 1), img_size=64)


def test_all_eight_are_registered_with_their_paper_and_the_licence_of_their_weights():
    assert set(NAMES) <= set(timm.list_models(pretrained=False))
    for name in NAMES:
        cfg = timm.create_model(name, device="meta").default_cfg
        assert cfg["license"] == "apache-2.0"
        assert cfg["paper_ids"].startswith("arXiv:")


def test_without_hidden_layer_the_classifier_reads_the_pooled_patches():
    model = timm.create_model("gkgnet_s", num_classes=5, head_hidden_size=0, **SMALL).eval()
    assert model.head_hidden_size == WIDTHS[-1]
    assert model.get_classifier().weight.shape == (5, WIDTHS[-1], 1, 1)
    image = torch.randn(1, 3, 64, 64)
    assert model.forward_head(model.forward_features(image), pre_logits=True).shape == (1, WIDTHS[-1])
    torch.testing.assert_close(
        model(image), torch.nn.functional.linear(model.forward_features(image).mean((2, 3)), *flat(model.head.fc))
    )
    assert not [name for name in model.state_dict() if name.startswith("head.hidden")]


def flat(layer):
    return layer.weight.flatten(1), layer.bias


def test_the_families_differ_in_their_groups_and_preprocessing():
    gkgnet, pvig = (timm.create_model(name, device="meta") for name in ("gkgnet_s", "pvig_s"))
    assert gkgnet.stages[0].blocks[0].graph.num_groups == 2
    assert pvig.stages[0].blocks[0].graph.num_groups == 1
    assert resolve_data_config(model=gkgnet)["mean"] == (0.485, 0.456, 0.406)
    assert resolve_data_config(model=pvig)["mean"] == (0.5, 0.5, 0.5)
    assert resolve_data_config(model=gkgnet)["crop_pct"] == 1.0


@pytest.mark.parametrize("out_indices", [(0,), (1, 3), (0, 1, 2, 3), (-1,)])
def test_features_only_at_any_indices(out_indices):
    model = timm.create_model("gkgnet_s", features_only=True, out_indices=out_indices, **SMALL).eval()
    features = model(torch.randn(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == [WIDTHS[i] for i in out_indices]
    assert model.feature_info.reduction() == [4 * 2 ** (i % 4) for i in out_indices]


def test_dilation_grows_over_the_whole_network():
    def dilations(name):
        model = timm.create_model(name, device="meta")
        return [block.graph.dilation for stage in model.stages for block in stage.blocks]

    assert dilations("gkgnet_s") == [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert max(dilations("gkgnet_b")) == 49 // 9


def test_drop_path_draws_what_timm_draws():
    x, outputs = torch.randn(64, 3, 2, 2), []
    for drop_path in (DropPath(0.3), timm.layers.DropPath(0.3)):
        torch.manual_seed(1)
        outputs.append(drop_path(x))
        assert drop_path.eval()(x) is x
    assert torch.equal(*outputs)
    assert 0 < (outputs[0] == 0).float().mean() < 1


def test_drop_path_rises_linearly_from_zero():
    model = timm.create_model("gkgnet_s", drop_path_rate=0.2, **SMALL)
    rates = [getattr(b.ffn.drop_path, "drop_prob", 0.0) for stage in model.stages for b in stage.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_another_input_size_resizes_the_embedding_once_or_in_every_forward():
    model = timm.create_model("gkgnet_s", **SMALL).eval()
    torch.nn.init.normal_(model.stem.pos_embed)
    image = torch.randn(1, 3, 96, 128)
    expected = model(image)
    model.set_input_size((96, 128))
    assert model.stem.pos_embed.shape == (1, WIDTHS[0], 24, 32)
    torch.testing.assert_close(model(image), expected)


def test_factory_device_and_dtype_reach_every_tensor():
    model = timm.create_model("gkgnet_s", device="meta", dtype=torch.bfloat16, **SMALL)
    floating = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    assert {(t.device.type, t.dtype) for t in floating} == {("meta", torch.bfloat16)}


def test_layer_decay_groups_follow_the_depth():
    model = timm.create_model("gkgnet_s", **SMALL)
    groups = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    order = ["stem.pos_embed", "stages.0.blocks.0.ffn.fc1.conv.weight", "stages.2.blocks.1.ffn.fc1.conv.weight"]
    assert [groups[name] for name in order] == sorted(groups[name] for name in order)
    assert groups["stages.1.downsample.conv.weight"] <= groups["stages.1.blocks.0.graph.fc1.conv.weight"]
    assert groups["head.fc.weight"] == max(groups.values())


def test_torchscript_gives_the_same_output():
    model = timm.create_model("gkgnet_s", num_classes=5, **SMALL).eval()
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(torch.jit.script(model)(image), model(image))
