"""Exported networks compute what the network computes, at any size, without this package."""

import json
import sys
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from transformers import AutoConfig, AutoImageProcessor

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification, create_image_processor
from gkgnet_hf.export import export_model, export_program, smallest_export

from .test_models import WIDTHS, small_config
from .test_readme import snippets

NAMES = ["cat", "dog", "tree"]
# Fewer sources than neighbours, a size of which no stage is a divisor, H ≠ W, the own size in a larger batch.
SHAPES = [(1, 3, 33, 33), (1, 3, 77, 131), (2, 3, 224, 200), (3, 3, 64, 64)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = small_config(
        id2label=dict(enumerate(NAMES)), depths=(1, 1, 1, 1), blocks_per_dilation=2, num_label_blocks=(1, 0, 0, 1)
    )
    model = GKGNetForImageClassification(config)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:  # real statistics, so that activations neither vanish nor explode
        norm.momentum = 1.0
    with torch.no_grad():
        model.gkgnet.backbone.stem.pos_embed.normal_()
        model.train()(torch.randn(8, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("workplace")
    model.save_pretrained(folder / "model")
    create_image_processor(model.config).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def run(run_in, workplace):
    return partial(run_in, workplace)


@pytest.fixture(scope="module")
def onnx_folder(workplace, model):
    return export_model(model, create_image_processor(model.config), workplace / "my-gkgnet-onnx")


@pytest.fixture(scope="module")
def session(onnx_folder):
    return onnxruntime.InferenceSession(onnx_folder / "model.onnx")


@torch.no_grad()
def logits_of(model, pixel_values):
    return model(pixel_values).logits


def test_a_program_is_read_without_this_package_and_gives_the_same_logits(run, workplace, model):
    assert run("export", "model", "pt2", "--format", "pt2")[:2] == (0, "pt2\n")
    program = torch.export.load(workplace / "pt2" / "model.pt2")
    assert not [node for node in program.graph.nodes if str(node.target).startswith("gkgnet.")]
    network = program.module()
    for shape in SHAPES:
        pixel_values = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(network(pixel_values), logits_of(model, pixel_values))


@pytest.mark.parametrize("shape", SHAPES)
def test_onnxruntime_gives_the_same_logits(session, model, shape):
    pixel_values = torch.randn(shape)
    (found,) = session.run(["logits"], {"pixel_values": pixel_values.numpy()})
    expected = logits_of(model, pixel_values)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_onnx_file_says_what_it_reads_and_writes(onnx_folder, session):
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("pixel_values", ["batch_size", 3, "height", "width"])
    assert (logits.name, logits.shape) == ("logits", ["batch_size", 3])
    file = onnx.load(onnx_folder / "model.onnx")
    onnx.checker.check_model(file)
    assert [(opset.domain, opset.version) for opset in file.opset_import] == [("", 20)]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["id2label"]) == {str(i): name for i, name in enumerate(NAMES)}
    assert facts["smallest_image"] == "33"


def test_labels_and_processor_stand_beside_the_file(onnx_folder, model):
    assert AutoConfig.from_pretrained(onnx_folder).id2label == dict(enumerate(NAMES))
    processor = AutoImageProcessor.from_pretrained(onnx_folder)
    assert processor.to_dict() == create_image_processor(model.config).to_dict()


def test_a_backbone_of_timm_exports_and_stays_in_train_mode():
    model = timm.create_model("gkgnet_ti", embed_dims=WIDTHS, depths=(1, 1, 1, 1), img_size=64, features_only=True)
    program = export_program(model)
    assert model.training
    pixel_values = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pixel_values), model.eval()(pixel_values))


def test_larger_pooling_ratios_ask_for_larger_images():
    assert smallest_export(GKGNetForImageClassification(small_config(pooling_ratios=(8, 2, 1, 1)))) == 61
    with pytest.raises(ValueError, match="image_size must be at least 33 pixels a side for an export"):
        export_program(GKGNetForImageClassification(GKGNetConfig(hidden_sizes=WIDTHS, image_size=32)))


def test_the_snippet_of_the_docs_runs_as_written(onnx_folder, monkeypatch):
    monkeypatch.chdir(onnx_folder.parent)
    (snippet,) = snippets("docs/export.md", "python")
    namespace = {}
    exec(compile(snippet, "docs/export.md", "exec"), namespace)
    assert set(namespace["scores"]) == set(NAMES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "out"], "There is no folder nowhere"),
        (["model", "model"], "model must be a new or an empty folder"),
        (["model", "out", "--format", "tflite"], "Invalid value for '--format'"),
        (["model", "out"], "The format onnx needs onnx and onnxscript: pip install 'gkgnet-hf[export]'"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_no_folder(run, workplace, monkeypatch, words, message):
    if len(words) == 2:
        monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, out, err = run("export", *words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (workplace / "out").exists()
    assert not list(workplace.glob("_writing-*"))
