"""timm entry points: `gkgnet_*` (two groups) and `pvig_*` (one group, Pyramid ViG), single-label classifiers.

They read the original files of Pyramid ViG, so that

    timm.create_model("pvig_s", pretrained=True, pretrained_cfg_overlay=dict(file="pvig_s_82.1.pth.tar"))

works, for `gkgnet_s` too and at any `img_size`. A pickle is read only where it is named like that: of a repository
or a folder, safetensors are read, or it is an error.
"""

from pathlib import Path
from typing import Any

from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import nn

from .configuration_gkgnet import VARIANTS
from .timm_classifier import PyramidVisionGNNClassifier, checkpoint_filter_fn


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1.conv",
        "classifier": "head.fc",
        **kwargs,
    }


def _gkgnet_cfg(**kwargs: Any) -> dict[str, Any]:
    return _cfg(
        paper_ids="arXiv:2308.14378",
        paper_name="GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image "
        "Recognition",
        **kwargs,
    )


def _pvig_cfg(**kwargs: Any) -> dict[str, Any]:
    # Preprocessing of the original ImageNet files.
    return _cfg(
        **{"crop_pct": 0.9, "mean": IMAGENET_INCEPTION_MEAN, "std": IMAGENET_INCEPTION_STD, **kwargs},
        paper_ids="arXiv:2206.00272",
        paper_name="Vision GNN: An Image is Worth Graph of Nodes",
        origin_url="https://github.com/huawei-noah/Efficient-AI-Backbones",
    )


# No file of these is on a server that timm could fetch from: give one with pretrained_cfg_overlay=dict(file=...).
# Nor do they state a licence, which is one of weights.
default_cfgs = generate_default_cfgs(
    {
        "gkgnet_ti.untrained": _gkgnet_cfg(),
        "gkgnet_s.untrained": _gkgnet_cfg(),
        "gkgnet_m.untrained": _gkgnet_cfg(),
        "gkgnet_b.untrained": _gkgnet_cfg(),
        "pvig_ti.in1k": _pvig_cfg(),
        "pvig_s.in1k": _pvig_cfg(),
        "pvig_m.in1k": _pvig_cfg(),
        "pvig_b.in1k": _pvig_cfg(crop_pct=0.95),
    }
)


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    family, variant = name.split("_")
    sizes = VARIANTS[variant]
    if pretrained:
        kwargs["pretrained_cfg_overlay"] = _without_pickles(name, **kwargs)
    model_args = dict(
        embed_dims=sizes["hidden_sizes"], depths=sizes["depths"], num_groups=2 if family == "gkgnet" else 1
    )
    return build_model_with_cfg(
        PyramidVisionGNNClassifier,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), flatten_sequential=True),
        **{**model_args, **kwargs},
    )


def _without_pickles(
    name: str, pretrained_cfg: Any = None, pretrained_cfg_overlay: dict[str, Any] | None = None, **_: Any
) -> dict[str, Any]:
    """The overlay with which timm, where it looks for the weights itself, does not go on to a pickle."""
    overlay = pretrained_cfg_overlay or {}
    source = resolve_pretrained_cfg(name, pretrained_cfg, overlay)
    if source.source == "local-dir" and not Path(str(source.file), SAFETENSORS_SINGLE_FILE).is_file():
        raise FileNotFoundError(
            f"{source.file} must hold {SAFETENSORS_SINGLE_FILE}; for a pickle use the name of the model and "
            "pretrained_cfg_overlay=dict(file=...)"
        )
    if source.source == "hf-hub" or (source.hf_hub_id and not source.file and not source.state_dict):
        return {"hf_hub_filename": SAFETENSORS_SINGLE_FILE, **overlay}
    return overlay


@register_model
def gkgnet_ti(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GKGNet's patch nodes, two groups, widths 48 … 384."""
    return _create("gkgnet_ti", pretrained, **kwargs)


@register_model
def gkgnet_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GKGNet's patch nodes, two groups, widths 80 … 640."""
    return _create("gkgnet_s", pretrained, **kwargs)


@register_model
def gkgnet_m(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GKGNet's patch nodes, two groups, widths 96 … 768."""
    return _create("gkgnet_m", pretrained, **kwargs)


@register_model
def gkgnet_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """GKGNet's patch nodes, two groups, widths 128 … 1024."""
    return _create("gkgnet_b", pretrained, **kwargs)


@register_model
def pvig_ti(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Pyramid ViG, widths 48 … 384."""
    return _create("pvig_ti", pretrained, **kwargs)


@register_model
def pvig_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Pyramid ViG, widths 80 … 640."""
    return _create("pvig_s", pretrained, **kwargs)


@register_model
def pvig_m(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Pyramid ViG, widths 96 … 768."""
    return _create("pvig_m", pretrained, **kwargs)


@register_model
def pvig_b(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Pyramid ViG, widths 128 … 1024."""
    return _create("pvig_b", pretrained, **kwargs)
