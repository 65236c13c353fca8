"""The network computes what the released one computes, to the digit."""

import copy
import json
from contextlib import nullcontext

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paths import reference_path
from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, load_released_checkpoint, optimize_for_inference
from gkgnet_hf.hub.released import _rename_released
from gkgnet_hf.modeling.modeling_gkgnet import LabelStage, multi_label_loss
from gkgnet_hf.modeling.original_files import rename_original

from .drawing import CHECKPOINT_TENSORS, FIXTURES, draw_checkpoint, draw_image, draw_targets

GKGNET_REFERENCE = FIXTURES / "gkgnet_t_224_labels6.safetensors"
NUM_LABELS, SEED = 6, 1


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.fixture(scope="module")
def reference():
    return load_file(GKGNET_REFERENCE)


@pytest.fixture(scope="module")
def gkgnet():
    return load_released_checkpoint(draw_checkpoint("gkgnet_t_224_labels80", SEED, NUM_LABELS)).double()


@pytest.fixture(scope="module")
def pixel_values():
    return draw_image((2, 3, 224, 224), SEED)


def test_eval_mode_matches_the_released_network(gkgnet, pixel_values, reference):
    with torch.no_grad():
        outputs = gkgnet.eval()(pixel_values.double(), output_hidden_states=True, output_neighbors=True)
        nodes = gkgnet.gkgnet(pixel_values.double())
    assert relative_error(outputs.logits, reference["logits"]) < 1e-9
    assert relative_error(nodes.label_hidden_state, reference["label_nodes"]) < 1e-6
    assert relative_error(nodes.pooler_output, reference["pooled"]) < 1e-6
    neighbors = outputs.label_neighbors[-1]
    assert torch.equal(neighbors.sort().values, reference["cross_level_neighbours_last_stage"].long().sort().values)
    for stage in range(1, 5):
        features = outputs.hidden_states[stage]
        assert relative_error(features.mean((2, 3)), reference[f"stage{stage}_channel_mean"]) < 1e-6
        assert relative_error(features.std((2, 3)), reference[f"stage{stage}_channel_std"]) < 1e-6
        assert relative_error(features[:, :4, :4, :4], reference[f"stage{stage}_corner"]) < 1e-6


@pytest.mark.parametrize("path", ["reference", "without compiled loops", "default", "optimised"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_every_path_matches_the_released_network(gkgnet, pixel_values, reference, monkeypatch, path, dtype, tolerance):
    model = copy.deepcopy(gkgnet).eval()
    if path == "without compiled loops":
        monkeypatch.setenv("GKGNET_KERNELS", "off")
    elif path == "optimised":
        optimize_for_inference(model)
    with reference_path() if path == "reference" else nullcontext(), torch.no_grad():
        logits = model.to(dtype)(pixel_values.to(dtype)).logits
    assert relative_error(logits, reference["logits"]) < tolerance


def train_step(gkgnet, pixel_values):
    config = GKGNetConfig.from_variant("ti", num_labels=NUM_LABELS, drop_path_rate=0.0)
    weights, gkgnet = gkgnet.state_dict(), GKGNetForImageClassification(config).double().train()
    gkgnet.load_state_dict(weights)
    outputs = gkgnet(pixel_values.double(), labels=draw_targets((2, NUM_LABELS), SEED))
    outputs.loss.backward()
    return outputs, dict(gkgnet.named_parameters())


def test_training_matches_the_released_network(gkgnet, pixel_values, reference):
    outputs, _ = train_step(gkgnet, pixel_values)
    assert torch.equal(draw_targets((2, NUM_LABELS), SEED), reference["labels"].double())
    assert relative_error(outputs.logits, reference["train_logits"]) < 1e-9
    assert relative_error(outputs.loss, reference["asymmetric_loss_x10"] + reference["label_smoothing_loss"]) < 1e-9


def batch_norm_misreads_columns():
    """Whether batch norm on CPU sums other numbers than a gradient (B, C, L, 1) that comes from a transpose holds."""
    bias = torch.zeros(3, requires_grad=True)
    gradient = torch.arange(24.0).reshape(2, 4, 3).mT.unsqueeze(-1)
    F.batch_norm(torch.randn(2, 3, 4, 1), None, None, bias=bias, training=True).backward(gradient)
    return not torch.equal(bias.grad, gradient.sum((0, 2, 3)))


@pytest.mark.skipif(not batch_norm_misreads_columns(), reason="the norms have a fault that torch has mended")
def test_gradients_are_the_released_ones_with_the_fault_they_were_measured_with(gkgnet, pixel_values, monkeypatch):
    def forward_as_columns(self, labels, patches):
        labels = self.projection(labels).mT.unsqueeze(-1)
        for block in self.blocks:
            labels, neighbors = block(labels, patches)
        return labels.squeeze(-1).mT, neighbors

    monkeypatch.setattr(LabelStage, "forward", forward_as_columns)
    with reference_path():  # the fault depends on how tensors lie in memory
        _, parameters = train_step(gkgnet, pixel_values)
    with safe_open(GKGNET_REFERENCE, "pt") as file:
        norms = json.loads(file.metadata()["grad_norms"])
    config = GKGNetConfig.from_variant("ti")
    compared = 0
    for name, norm in norms.items():
        if norm > 1e-6:  # smaller ones are zero in theory
            gradient = parameters[_rename_released(name, config)].grad
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), name
            compared += 1
    assert compared > 200


def test_each_loss_matches_the_released_one(reference):
    logits, labels = reference["train_logits"], reference["labels"].double()
    asymmetric = multi_label_loss(logits, labels, smoothed_loss_weight=0.0)
    smoothed = multi_label_loss(logits, labels, asymmetric_loss_weight=0.0)
    assert relative_error(asymmetric, reference["asymmetric_loss_x10"]) < 1e-9
    assert relative_error(smoothed, reference["label_smoothing_loss"]) < 1e-9


def test_pyramid_vig_matches_the_original(tmp_path):
    torch.save(draw_checkpoint("pvig_ti_224", seed=0), tmp_path / "pvig_ti.pth.tar")
    overlay = dict(file=str(tmp_path / "pvig_ti.pth.tar"))
    model = timm.create_model("pvig_ti", pretrained=True, pretrained_cfg_overlay=overlay).eval().double()
    expected = load_file(FIXTURES / "pvig_ti_224.safetensors")["logits"]
    with torch.no_grad():
        assert relative_error(model(draw_image((2, 3, 224, 224), 0).double()), expected) < 1e-9


@pytest.mark.parametrize("checkpoint", [name for name in CHECKPOINT_TENSORS if name.startswith("gkgnet")])
def test_every_released_tensor_has_its_place(checkpoint):
    variant, size = {"t": "ti", "s": "s"}[checkpoint.split("_")[1]], int(checkpoint.split("_")[2])
    config = GKGNetConfig.from_variant(variant, image_size=size, num_labels=80)
    with torch.device("meta"):
        model = GKGNetForImageClassification(config)
    released = {
        _rename_released(name, config): tuple(shape)
        for name, shape in CHECKPOINT_TENSORS[checkpoint].items()
        if not name.endswith("relative_pos")
    }
    assert released == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["pvig_ti", "pvig_s", "pvig_m", "pvig_b"])
def test_every_original_imagenet_tensor_has_its_place(name):
    model = timm.create_model(name, device="meta")
    depths = [len(stage.blocks) for stage in model.stages]
    original = {
        rename_original(tensor, depths): tuple(shape)
        for tensor, shape in CHECKPOINT_TENSORS[f"{name}_224"].items()
        if not tensor.endswith("relative_pos")
    }
    assert original == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("variant", "image_size", "parameters"),
    [
        ("ti", 224, 12_098_704),
        ("ti", 448, 12_550_288),
        ("ti", 576, 12_943_504),
        ("s", 224, 33_265_200),
        ("s", 448, 34_017_840),
        ("s", 576, 34_673_200),
    ],
)
def test_parameter_counts(variant, image_size, parameters):
    with torch.device("meta"):
        model = GKGNetForImageClassification(GKGNetConfig.from_variant(variant, image_size=image_size, num_labels=80))
    assert model.num_parameters() == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("pvig_ti", 10_714_376), ("pvig_s", 27_251_912), ("pvig_m", 49_525_832), ("pvig_b", 92_980_328)],
)
def test_classifier_parameter_counts(name, parameters):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("image_size", "giga"), [(224, 5.19), (448, 21.86), (576, 39.94)])
def test_multiply_adds_of_gkgnet_s(image_size, giga):
    """In 10⁹, neighbour search included; the released count holds an L×L product of which only the diagonal is used."""
    with torch.device("meta"):
        config = GKGNetConfig.from_variant("s", image_size=image_size, num_labels=80, use_position_bias=False)
        model = GKGNetForImageClassification(config)  # the paper does not count how its bias is made
        pixel_values = torch.empty(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(pixel_values)
    unused = 80 * 80 * 640
    assert round((counter.get_total_flops() / 2 + unused) / 1e9, 2) == giga
