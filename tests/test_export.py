"""Exported networks compute what the network computes, at any size, without this package."""

import json
import subprocess
import sys
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import timm.utils.onnx
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
        id2label=dict(enumerate(NAMES)),
        hidden_sizes=(16, 24),
        depths=(1, 1),
        pooling_ratios=(4, 2),
        num_label_blocks=(1, 1),
        blocks_per_dilation=1,
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


@pytest.mark.slow
def test_a_program_is_read_without_this_package_and_gives_the_same_logits(run, workplace, model):
    assert run("export", "model", "pt2", "--format", "pt2")[:2] == (0, "pt2\n")
    program = torch.export.load(workplace / "pt2" / "model.pt2")
    assert not [node for node in program.graph.nodes if str(node.target).startswith("gkgnet.")]
    network = program.module()
    for shape in SHAPES:
        pixel_values = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(network(pixel_values), logits_of(model, pixel_values))


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_onnxruntime_gives_the_same_logits(session, model, shape):
    pixel_values = torch.randn(shape)
    (found,) = session.run(["logits"], {"pixel_values": pixel_values.numpy()})
    expected = logits_of(model, pixel_values)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_search_of_an_onnx_file_goes_by_grid_row(onnx_folder, model):
    loops = [node for node in onnx.load(onnx_folder / "model.onnx").graph.node if node.op_type == "Scan"]
    bodies = [attribute.g for loop in loops for attribute in loop.attribute if attribute.name == "body"]
    searches = [body for body in bodies if "TopK" in {node.op_type for node in body.node}]
    assert len(searches) == sum(model.config.depths)


@pytest.mark.slow
@pytest.mark.slow
def test_the_onnx_file_says_what_it_reads_and_writes(onnx_folder, session):
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("pixel_values", ["batch_size", 3, "height", "width"])
    assert (logits.name, logits.shape) == ("logits", ["batch_size", 3])
    file = onnx.load(onnx_folder / "model.onnx")
    onnx.checker.check_model(file)
    assert [(opset.domain, opset.version) for opset in file.opset_import] == [("", 20)]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["id2label"]) == {str(i): name for i, name in enumerate(NAMES)}
    assert facts["smallest_image"] == "32"


@pytest.mark.slow
def test_labels_and_processor_stand_beside_the_file(onnx_folder, model):
    assert AutoConfig.from_pretrained(onnx_folder).id2label == dict(enumerate(NAMES))
    processor = AutoImageProcessor.from_pretrained(onnx_folder)
    assert processor.to_dict() == create_image_processor(model.config).to_dict()


@pytest.mark.slow
def test_a_backbone_of_timm_exports_and_stays_in_train_mode():
    settings = dict(embed_dims=(16, 24), depths=(1, 1), pool_ratios=(4, 2), img_size=64)
    model = timm.create_model("gkgnet_ti", features_only=True, out_indices=(0, 1), **settings)
    program = export_program(model)
    assert model.training
    pixel_values = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pixel_values), model.eval()(pixel_values))


# torch's and timm's own exporters, on the models as they are.


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    settings = dict(embed_dims=(16, 24), depths=(1, 1), pool_ratios=(4, 2), img_size=64)
    return timm.create_model("pvig_ti", num_classes=3, head_hidden_size=8, **settings).eval()


def run_onnx(path, pixel_values):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: pixel_values.numpy()})[0]


TRACED_ELSEWHERE = """
import sys, torch
torch.save(torch.jit.load(sys.argv[1])(torch.load(sys.argv[2])), sys.argv[3])
assert not {"gkgnet_hf", "transformers", "timm"} & set(sys.modules)
"""


@pytest.mark.parametrize("return_dict", [True, False])
def test_a_trace_runs_at_any_size_without_this_package(model, monkeypatch, tmp_path, return_dict):
    monkeypatch.setattr(model.config, "return_dict", return_dict)
    torch.jit.trace(model, torch.randn(2, 3, 64, 64), strict=False).save(tmp_path / "model.pt")
    pixel_values = torch.randn(3, 3, 77, 131)
    torch.save(pixel_values, tmp_path / "images")
    words = [tmp_path / name for name in ("model.pt", "images", "outputs")]
    subprocess.run([sys.executable, "-c", TRACED_ELSEWHERE, *words], check=True)
    outputs = torch.load(tmp_path / "outputs")
    monkeypatch.setattr(model.config, "return_dict", True)
    torch.testing.assert_close(outputs["logits" if return_dict else 0], logits_of(model, pixel_values))


def test_onnx_export_by_trace_takes_any_batch_and_size_it_is_told_to(model, tmp_path):
    path = tmp_path / "model.onnx"
    axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
    images = torch.randn(2, 3, 64, 64)
    torch.onnx.export(model, (images,), path, dynamo=False, input_names=["pixel_values"], dynamic_axes=axes)
    for shape in SHAPES:
        pixel_values = torch.randn(shape)
        np.testing.assert_allclose(run_onnx(path, pixel_values), logits_of(model, pixel_values), rtol=0, atol=1e-4)


def test_onnx_export_by_torch_export_takes_the_model_as_it_is(tmp_path):
    config = GKGNetConfig(hidden_sizes=[8], depths=[1], pooling_ratios=[4], num_label_blocks=[1], image_size=64)
    model = GKGNetForImageClassification(config).eval()
    pixel_values = torch.randn(2, 3, 64, 64)
    torch.onnx.export(model, (pixel_values,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    found = run_onnx(tmp_path / "model.onnx", pixel_values)
    np.testing.assert_allclose(found, logits_of(model, pixel_values), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("dynamic_size", "use_dynamo"),
    [(False, False), (True, False), pytest.param(True, True, marks=pytest.mark.slow)],
)
def test_timm_exports_its_models(backbone, tmp_path, dynamic_size, use_dynamo):
    path = str(tmp_path / "model.onnx")
    images = torch.randn(2, 3, 64, 64)
    options = dict(dynamic_size=dynamic_size, use_dynamo=use_dynamo, check_forward=True)
    timm.utils.onnx.onnx_export(backbone, path, example_input=images, **options)
    pixel_values = torch.randn(3, 3, 77, 131) if dynamic_size else torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        np.testing.assert_allclose(run_onnx(path, pixel_values), backbone(pixel_values), rtol=0, atol=1e-3)


def test_a_compiled_network_calls_the_operators(backbone):
    graphs = []
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    compiled(torch.randn(1, 3, 64, 64))
    called = {str(node.target) for node in graphs[0].graph.nodes}
    assert {"gkgnet.find_neighbors", "gkgnet.gather_max"} <= {name.removesuffix(".default") for name in called}


def test_larger_pooling_ratios_ask_for_larger_images():
    assert smallest_export(GKGNetForImageClassification(small_config(pooling_ratios=(8, 2, 1, 1)))) == 61
    with pytest.raises(ValueError, match="image_size must be at least 33 pixels a side for an export"):
        export_program(GKGNetForImageClassification(GKGNetConfig(hidden_sizes=WIDTHS, image_size=32)))


@pytest.mark.slow
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
