"""A network made ready for inference computes what it computed before."""

import copy

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from gkgnet_hf import GKGNetForImageClassification, optimize_for_inference
from gkgnet_hf.export import export_program
from gkgnet_hf.modeling import vision_gnn
from gkgnet_hf.modeling.packed_conv import PackedConv
from gkgnet_hf.modeling.vision_gnn import ConvNorm, position_bias

from .test_models import small_config


def trained(model):
    """The model in eval mode, with batch norms that have seen images; float64, so that no near tie flips."""
    model = model.double().train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(4, 3, 64, 64, dtype=torch.float64))
    return model.eval()


def logits(output):
    return output if isinstance(output, torch.Tensor) else output.logits


def gkgnet():
    return GKGNetForImageClassification(small_config())


def pvig():
    return timm.create_model("pvig_ti", num_classes=4, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))


@pytest.mark.parametrize("build", [gkgnet, pvig])
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 96, 64)])
@pytest.mark.parametrize("band", [7, 4096])
def test_logits_stay_the_same(monkeypatch, build, shape, band):
    monkeypatch.setattr(vision_gnn, "BAND", band)
    model = trained(build())
    optimised = optimize_for_inference(copy.deepcopy(model))
    assert not any(isinstance(module, (ConvNorm, torch.nn.BatchNorm2d)) for module in optimised.modules())
    images = torch.randn(shape, dtype=torch.float64)
    with torch.inference_mode():
        before, after = model(images), optimised(images)
    torch.testing.assert_close(logits(after), logits(before), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", [gkgnet, pvig])
def test_packed_convolutions_give_the_logits_of_plain_ones(monkeypatch, build):
    model = trained(build()).float()
    optimised = optimize_for_inference(copy.deepcopy(model))
    images = torch.randn(2, 3, 96, 64)
    for network in (optimised, copy.deepcopy(optimised)):  # the second is copied before it has packed anything
        with torch.inference_mode(), monkeypatch.context() as plain:
            packed = logits(network(images))
            assert all(m.packed is not None for m in network.modules() if isinstance(m, PackedConv))
            plain.setattr(PackedConv, "_takes", lambda self, x: False)
            torch.testing.assert_close(packed, logits(network(images)), rtol=1e-4, atol=1e-4)


def test_a_network_that_has_inferred_can_be_copied_differentiated_and_converted():
    model = optimize_for_inference(gkgnet().eval())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = model(image).logits
    model = copy.deepcopy(model)
    leaf = image.clone().requires_grad_()
    model(leaf).logits.sum().backward()
    assert leaf.grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(model(image).logits, before)
        conv = model.gkgnet.backbone.stem.conv1
        single = conv(image)
        assert model.bfloat16()(image.bfloat16()).logits.dtype == torch.bfloat16
        torch.testing.assert_close(conv(image.bfloat16()).float(), single, rtol=0.02, atol=0.05)


def test_the_position_bias_is_kept_until_another_grid_comes():
    stage = optimize_for_inference(gkgnet().eval()).gkgnet.backbone.stages[0]
    small, wide = torch.zeros(1, 8, 16, 16), torch.zeros(1, 8, 16, 24)
    first = stage.position_bias(small)
    assert stage.position_bias(small) is first
    for grid in (wide, small.double()):
        for kept, fresh in zip(stage.position_bias(grid), position_bias(grid, stage.pool_ratio), strict=True):
            torch.testing.assert_close(kept, fresh)


def test_multiply_adds_of_packed_convolutions_are_counted():
    model = gkgnet().eval()
    counts = []
    for network in (model, optimize_for_inference(copy.deepcopy(model))):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, 64, 64))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_another_network_is_an_error():
    for use in (optimize_for_inference, export_program):
        with pytest.raises(ValueError, match="The model must be a GKGNet or Pyramid ViG, got ResNet"):
            use(timm.create_model("resnet18").eval())


def test_an_image_can_have_a_gradient():
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    optimize_for_inference(gkgnet().eval())(image).logits.sum().backward()
    assert image.grad.abs().sum() > 0


def test_an_empty_batch_has_no_logits():
    model = gkgnet().eval()
    for network in (model, optimize_for_inference(copy.deepcopy(model))):
        assert network(torch.zeros(0, 3, 64, 64)).logits.shape == (0, model.num_labels)


def test_an_export_is_of_the_model_as_it_was():
    with pytest.raises(ValueError, match="export it before optimize_for_inference"):
        export_program(optimize_for_inference(gkgnet().eval()))


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="must be in eval mode"):
        optimize_for_inference(gkgnet().train())


def test_an_optimised_model_refuses_to_be_saved(tmp_path):
    model = optimize_for_inference(gkgnet().eval())
    with pytest.raises(RuntimeError, match="optimised for inference cannot be saved"):
        model.save_pretrained(tmp_path / "model")
    with pytest.raises(RuntimeError, match="optimised for inference cannot be saved"):
        model.state_dict()
