"""`pretrained=True`: original ImageNet files, served by a server on this machine."""

import logging
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import timm
import torch
from timm.models import _registry

from gkgnet_hf import GKGNetForImageClassification
from gkgnet_hf.training import create_model
from gkgnet_hf.training.recipe import read_recipe

from .drawing import draw_checkpoint
from .test_models import small_config

ACCURACIES = {"ti": "78.5", "s": "82.1", "m": "83.1", "b": "83.66"}
FILES = {size: f"pvig_{size}_{accuracy}.pth.tar" for size, accuracy in ACCURACIES.items()}
RELEASE = "https://github.com/huawei-noah/Efficient-AI-Backbones/releases/download/pyramid-vig"
FAMILIES = {"pvig": "in1k", "gkgnet": "pvig_in1k"}


@pytest.fixture(scope="module")
def original():
    return draw_checkpoint("pvig_ti_224", seed=0)


@pytest.fixture
def file(original, tmp_path):
    """As a training script leaves it, with more than tensors."""
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / FILES["ti"]
    torch.save({"state_dict": original, "metric": np.float64(78.5), "arch": "pvig_ti"}, path)
    return path


@pytest.fixture
def requests(file, tmp_path, monkeypatch):
    """Both models of size ti download from a server here, into a cache of their own; the paths it was asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(file.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        serve(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        yield asked
        server.shutdown()


def serve(address, monkeypatch):
    for family, tag in FAMILIES.items():
        for name in (f"{family}_ti", f"{family}_ti.{tag}"):
            if name in _registry._model_pretrained_cfgs:
                cfg = _registry._model_pretrained_cfgs[name]
                monkeypatch.setitem(
                    _registry._model_pretrained_cfgs, name, replace(cfg, url=f"{address}/{FILES['ti']}")
                )


@pytest.mark.parametrize("size", FILES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_names_its_original_file(family, size):
    cfg = timm.get_pretrained_cfg(f"{family}_{size}")
    assert (cfg.url, cfg.tag, cfg.license) == (f"{RELEASE}/{FILES[size]}", FAMILIES[family], "apache-2.0")
    assert f"{family}_{size}.{FAMILIES[family]}" in timm.list_pretrained()


@pytest.mark.parametrize("name", ["pvig_ti", "gkgnet_ti", "pvig_ti.in1k", "gkgnet_ti.pvig_in1k"])
def test_pretrained_downloads_once(name, original, requests):
    for _ in range(2):
        model = timm.create_model(name, pretrained=True)
    assert requests == [f"/{FILES['ti']}"]
    assert torch.equal(model.head.fc.weight, original["prediction.4.weight"])
    assert torch.equal(model.stages[1].downsample.conv.bias, original["backbone.2.conv.0.bias"])
    assert not [value for value in model.pretrained_cfg.values() if isinstance(value, dict)]


def test_a_downloaded_network_adapts_as_any_of_timm(original, requests):
    model = timm.create_model("pvig_ti", pretrained=True, num_classes=7, in_chans=1, img_size=160)
    assert torch.allclose(model.stem.conv1.conv.weight, original["stem.convs.0.weight"].sum(1, keepdim=True))
    assert torch.equal(model.head.hidden.conv.weight, original["prediction.0.weight"])
    assert model.eval()(torch.randn(1, 1, 160, 160)).shape == (1, 7)
    features = timm.create_model("pvig_ti", pretrained=True, features_only=True)
    assert torch.equal(features.stem.conv1.conv.weight, original["stem.convs.0.weight"])
    assert [f.shape[1] for f in features.eval()(torch.randn(1, 3, 64, 64))] == [48, 96, 240, 384]


def test_a_downloaded_network_is_saved_like_any_of_timm(requests, tmp_path):
    model = timm.create_model("pvig_ti", pretrained=True, num_classes=3)
    timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["pvig_ti", "gkgnet_ti"])
@pytest.mark.parametrize("image_size", [224, 160])
def test_original_imagenet_files_load_into_timm(tmp_path, original, name, image_size):
    torch.save({**original, "backbone.0.0.relative_pos": torch.zeros(1, 3136, 196)}, tmp_path / "pvig_ti.pth.tar")
    overlay = dict(file=str(tmp_path / "pvig_ti.pth.tar"))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=image_size)
    assert torch.equal(model.head.fc.weight, original["prediction.4.weight"])
    assert torch.equal(model.stages[1].downsample.conv.bias, original["backbone.2.conv.0.bias"])
    assert model.stem.pos_embed.shape[-1] == image_size // 4
    assert model.eval()(torch.randn(1, 3, image_size, image_size)).isfinite().all()


def test_backbone_checkpoint_imagenet_starts_the_patch_nodes(original, requests, caplog):
    caplog.set_level(logging.INFO)
    model = create_model(["cat", "dog"], "ti", image_size=160, backbone_checkpoint="imagenet")
    backbone = model.gkgnet.backbone
    assert torch.equal(backbone.stages[1].downsample.conv.bias, original["backbone.2.conv.0.bias"])
    assert backbone.stem.pos_embed.shape[-1] == 40
    started = [text for text in caplog.messages if "start from" in text]
    assert len(started) == 1
    assert FILES["ti"] in started[0]
    grey = create_model(["cat", "dog"], "ti", backbone_checkpoint="imagenet", num_channels=1)
    weight = original["stem.convs.0.weight"].sum(1, keepdim=True)
    assert torch.allclose(grey.gkgnet.backbone.stem.conv1.conv.weight, weight)
    assert len(requests) == 1


def test_a_path_starts_the_patch_nodes(original, file):
    model = create_model(["cat", "dog"], "ti", backbone_checkpoint=str(file))
    assert torch.equal(model.gkgnet.backbone.stem.conv1.conv.weight, original["stem.convs.0.weight"])


@pytest.mark.parametrize("checkpoint", [None, "none"])
def test_none_starts_at_random_without_a_download(checkpoint, requests):
    create_model(["cat", "dog"], "ti", backbone_checkpoint=checkpoint)
    assert not requests


def test_without_network_the_error_says_what_to_do(requests, monkeypatch):
    serve("http://127.0.0.1:9", monkeypatch)  # where nobody listens
    message = rf"http://127\.0\.0\.1:9/{FILES['ti']} cannot be downloaded: .*path of this file, or none"
    with pytest.raises(OSError, match=message):
        create_model(["cat", "dog"], "ti", backbone_checkpoint="imagenet")
    serve("http://127.0.0.1:9/missing", monkeypatch)
    with pytest.raises(OSError, match="cannot be downloaded"):
        create_model(["cat", "dog"], "ti", backbone_checkpoint="imagenet")


def test_another_network_than_that_of_the_weights_is_named(requests):
    with pytest.raises(ValueError, match=r"checkpoint does not fit: .*of another shape: stages\.3.*expected \(392"):
        create_model(["cat", "dog"], "ti", backbone_checkpoint="imagenet", hidden_sizes=[48, 96, 240, 392])


def test_a_trained_network_has_its_own_weights_already(tmp_path, requests):
    GKGNetForImageClassification(small_config(id2label={0: "cat", 1: "dog"})).save_pretrained(tmp_path / "trained")
    for checkpoint in ("imagenet", "none", None):
        create_model(["cat", "dog"], str(tmp_path / "trained"), backbone_checkpoint=checkpoint)
    assert not requests
    with pytest.raises(ValueError, match="has patch nodes already"):
        create_model(["cat", "dog"], str(tmp_path / "trained"), backbone_checkpoint="pvig.pth")


def test_the_recipe_for_own_labels_starts_from_imagenet():
    assert read_recipe(["custom", "--use_cpu"]).model.backbone_checkpoint == "imagenet"
