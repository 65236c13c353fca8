"""The base tester over the three transformers models and the timm classifiers and backbones."""

import copy
import subprocess
import sys
from typing import ClassVar

import pytest
import timm
import torch
from safetensors.torch import load_model, save_model

import gkgnet_hf  # noqa: F401
from gkgnet_hf import (
    GKGNetBackbone,
    GKGNetConfig,
    GKGNetForImageClassification,
    GKGNetModel,
    optimize_for_inference,
)
from gkgnet_hf.modeling import modeling_gkgnet
from gkgnet_hf.training.sync_batch_norm import synchronize_batch_norm

from .base import ModelTester

WIDTHS = (16, 24, 40, 48)
NUM_LABELS = 5


def small_config(**kwargs):
    settings = dict(hidden_sizes=WIDTHS, depths=(1, 1, 2, 1), image_size=64, drop_path_rate=0.0)
    if "id2label" not in kwargs:
        settings["num_labels"] = NUM_LABELS
    return GKGNetConfig(**{**settings, **kwargs})


def stage_shapes(batch, height, width):
    shapes = []
    for i, dim in enumerate(WIDTHS):
        reduction = 4 * 2**i
        shapes.append((batch, dim, -(-height // reduction), -(-width // reduction)))
    return shapes


def pytest_generate_tests(metafunc):
    """Compiling takes long: `make test` compiles one model of transformers and one of timm."""
    if "backend" in metafunc.fixturenames:
        quick = metafunc.cls in (TestForImageClassification, TestTimmClassifier)
        metafunc.parametrize("backend", [pytest.param("aot_eager", marks=() if quick else pytest.mark.slow)])


class TransformersTester(ModelTester):
    def reload(self, model, directory):
        model.save_pretrained(directory)
        return type(model).from_pretrained(directory)


class TestModel(TransformersTester):
    def build(self):
        return GKGNetModel(small_config())

    def outputs(self, model, pixel_values):
        out = model(pixel_values)
        return [out.last_hidden_state, out.pooler_output, out.label_hidden_state]

    def expected_shapes(self, batch, height, width):
        return [
            stage_shapes(batch, height, width)[-1],
            (batch, WIDTHS[-1]),
            (batch, NUM_LABELS, WIDTHS[-1]),
        ]


class TestForImageClassification(TransformersTester):
    def build(self):
        return GKGNetForImageClassification(small_config())

    def outputs(self, model, pixel_values):
        return [model(pixel_values).logits]

    def expected_shapes(self, batch, height, width):
        return [(batch, NUM_LABELS)]


class TestSingleLabel(TestForImageClassification):
    def build(self):
        return GKGNetForImageClassification(small_config(num_labels=1))

    def expected_shapes(self, batch, height, width):
        return [(batch, 1)]

    def test_training_one_label_on_one_image_is_one_clear_error(self, model):
        with pytest.raises(ValueError, match=r"one image with one node or label, got \(1, 16, 1, 1\): give two images"):
            model.train()(torch.randn(1, 3, 64, 64))


class TestWithoutLabelNodes(TestForImageClassification):
    def build(self):
        return GKGNetForImageClassification(small_config(num_label_blocks=(0, 0, 0, 0)))


class TestOddNumbers(TestForImageClassification):
    """One group, no bias, two label blocks in one stage and none in another, a size for which no ratio fits."""

    def build(self):
        return GKGNetForImageClassification(
            small_config(
                num_groups=1,
                num_label_groups=4,
                num_label_blocks=(0, 2, 0, 1),
                use_position_bias=False,
                num_neighbors=3,
                num_label_neighbors=4,
                pooling_ratios=(3, 2, 2, 1),
                image_size=(50, 71),
            )
        )


class TestBackbone(TransformersTester):
    def build(self):
        return GKGNetBackbone(small_config(out_indices=[1, 2, 3, 4]))

    def outputs(self, model, pixel_values):
        return list(model(pixel_values).feature_maps)

    def expected_shapes(self, batch, height, width):
        return stage_shapes(batch, height, width)


class TimmTester(ModelTester):
    name = "gkgnet_s"
    settings: ClassVar = dict(embed_dims=WIDTHS, depths=(1, 1, 2, 1), img_size=64)

    def reload(self, model, directory):
        save_model(model, directory / "model.safetensors")
        fresh = self.build()
        load_model(fresh, directory / "model.safetensors")
        return fresh


class TestTimmClassifier(TimmTester):
    def build(self):
        return timm.create_model(self.name, num_classes=NUM_LABELS, **self.settings)

    def expected_shapes(self, batch, height, width):
        return [(batch, NUM_LABELS)]


class TestTimmPyramidViG(TestTimmClassifier):
    name = "pvig_s"


class TestTimmFeatures(TimmTester):
    feature_cls = None
    counts_batches_once = False  # timm's FeatureListNet checkpoints whole stages itself

    def build(self):
        kwargs = {"feature_cls": self.feature_cls} if self.feature_cls else {}
        return timm.create_model(self.name, features_only=True, **kwargs, **self.settings)

    def outputs(self, model, pixel_values):
        return list(model(pixel_values))

    def expected_shapes(self, batch, height, width):
        return stage_shapes(batch, height, width)


class TestTimmFeaturesGetter(TestTimmFeatures):
    feature_cls = "getter"
    counts_batches_once = True


FRESH_PROCESS = """
import sys, torch, gkgnet_hf
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
expected = torch.load(sys.argv[1] + "/expected.pt")
torch.testing.assert_close(dict(model.state_dict()), expected["tensors"], rtol=0, atol=0)
torch.testing.assert_close(model(expected["pixel_values"]).logits, expected["logits"], rtol=1e-4, atol=1e-4)
print("same")
"""


def test_a_fresh_process_reloads_the_same_weights_and_logits(tmp_path):
    model = GKGNetForImageClassification(small_config()).eval()
    pixel_values = torch.randn(2, 3, 64, 64)
    logits = model(pixel_values).logits.detach()
    model.save_pretrained(tmp_path)
    expected = dict(pixel_values=pixel_values, logits=logits, tensors=dict(model.state_dict()))
    torch.save(expected, tmp_path / "expected.pt")
    out = subprocess.run([sys.executable, "-c", FRESH_PROCESS, str(tmp_path)], capture_output=True, text=True)
    assert out.stdout.strip() == "same", out.stderr


def test_gradient_checkpointing_updates_synchronised_statistics_once(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        model = synchronize_batch_norm(GKGNetForImageClassification(small_config()), torch.device("cpu")).train()
        checkpointed = copy.deepcopy(model)
        checkpointed.gradient_checkpointing_enable()
        for network in (model, checkpointed):
            network(torch.ones(2, 3, 64, 64)).logits.sum().backward()
        with pytest.raises(ValueError, match="more than 1 value per channel over all processes"):
            copy.deepcopy(model)(torch.ones(1, 3, 32, 32))  # the last map is a single node
    finally:
        torch.distributed.destroy_process_group()
    assert model.gkgnet.backbone.stages[0].blocks[0].ffn.fc1.norm.num_batches_tracked == 1
    torch.testing.assert_close(dict(checkpointed.named_buffers()), dict(model.named_buffers()))


@pytest.mark.parametrize("optimise", [False, True])
@pytest.mark.parametrize("band", [1, 3, 8])
def test_label_nodes_in_bands_are_those_of_one_piece(monkeypatch, optimise, band):
    model = GKGNetModel(small_config(num_labels=7, num_label_blocks=(0, 2, 1, 1))).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    if optimise:
        optimize_for_inference(model)
    with torch.inference_mode():
        whole = model(images, output_neighbors=True)
        monkeypatch.setattr(modeling_gkgnet, "CPU_LABEL_BAND", band * len(images))
        bands = model(images, output_neighbors=True)
    torch.testing.assert_close(bands.label_hidden_state, whole.label_hidden_state, rtol=1e-9, atol=1e-9)
    assert [n if n is None else n.tolist() for n in bands.label_neighbors] == [
        n if n is None else n.tolist() for n in whole.label_neighbors
    ]


def test_label_nodes_in_training_share_their_statistics_whatever_the_band(monkeypatch):
    model = GKGNetModel(small_config(drop_path_rate=0.0)).double().train()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    whole = copy.deepcopy(model)(images).label_hidden_state
    monkeypatch.setattr(modeling_gkgnet, "CPU_LABEL_BAND", 2)
    torch.testing.assert_close(model(images).label_hidden_state, whole)


def test_gradient_checkpointing_keeps_no_hidden_nodes_of_patches_or_labels():
    model = GKGNetModel(small_config(num_labels=11)).train()
    model.gradient_checkpointing_enable()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        model(torch.randn(2, 3, 64, 64))
    assert not {(2, 4 * width, 1, 11) for width in WIDTHS} & set(kept)
    assert not {(*shape[:1], 4 * shape[1], *shape[2:]) for shape in stage_shapes(2, 64, 64)} & set(kept)


def test_gradients_are_the_slope_of_the_loss():
    torch.manual_seed(0)
    model = GKGNetForImageClassification(small_config()).double().train()
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    labels = torch.randint(0, 2, (4, NUM_LABELS)).double()
    model(images, labels=labels).loss.backward()
    for part in ("gkgnet.backbone", "gkgnet.label_embedding", "gkgnet.label_stages", "classifier"):
        parameters = [p for name, p in model.named_parameters() if part in name]
        directions = [torch.randn_like(p) for p in parameters]
        slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions, strict=True)).item()
        losses = []
        with torch.no_grad():
            for step in (1e-7, -2e-7):
                for p, d in zip(parameters, directions, strict=True):
                    p += step * d
                losses.append(model(images, labels=labels).loss.item())
            for p, d in zip(parameters, directions, strict=True):
                p += 1e-7 * d
        assert (losses[0] - losses[1]) / 2e-7 == pytest.approx(slope, rel=1e-4), part
