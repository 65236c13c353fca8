"""timm entry points: `gkgnet_*` (two groups) and `pvig_*` (one group, Pyramid ViG), single-label classifiers.

`checkpoint_filter_fn` reads the original files of both, so that

    timm.create_model("pvig_s", pretrained=True, pretrained_cfg_overlay=dict(file="pvig_s_82.1.pth.tar"))

works, for `gkgnet_s` too and at any `img_size`.
"""

import re
from typing import Any

from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from .configuration_gkgnet import VARIANTS
from .layers import resize_position_embedding
from .vision_gnn import PyramidVisionGNN

__all__ = ["PyramidVisionGNN", "checkpoint_filter_fn"]

# Module of an original file → module here.
_STEM_AND_HEAD = {
    "pos_embed": "stem.pos_embed",
    "stem.convs.0": "stem.conv1.conv",
    "stem.convs.1": "stem.conv1.norm",
    "stem.convs.3": "stem.conv2.conv",
    "stem.convs.4": "stem.conv2.norm",
    "stem.convs.6": "stem.conv3.conv",
    "stem.convs.7": "stem.conv3.norm",
    "prediction.0": "head.hidden.conv",
    "prediction.1": "head.hidden.norm",
    "prediction.4": "head.fc",
}


def rename_conv_norm(name: str) -> str:
    """Name of a tensor inside an original block → its name here.

    >>> rename_conv_norm("graph_conv.gconv.nn.1.running_mean")
    'graph_conv.norm.running_mean'
    """
    return re.sub(r"(?:\.gconv\.nn)?\.([01])\.", lambda m: (".conv.", ".norm.")[int(m[1])], name)


def rename_original(name: str, depths: list[int]) -> str:
    """Name of a tensor of an original Pyramid ViG file → its name in `PyramidVisionGNN`; others stay as they are.

    >>> rename_original("backbone.3.1.fc1.0.weight", depths=[2, 2, 6, 2])
    'stages.1.blocks.0.ffn.fc1.conv.weight'
    """
    for original, ours in _STEM_AND_HEAD.items():
        if name == original or name.startswith(original + "."):
            return ours + name.removeprefix(original)
    match = re.fullmatch(r"backbone\.(\d+)\.(conv|0|1)\.(.+)", name)
    if match is None:
        return name
    # The original numbers blocks through, and from the second stage on the downsampling in front of them.
    index, stage = int(match[1]) + 1, 0
    while stage < len(depths) - 1 and index > depths[stage]:
        index -= depths[stage] + 1
        stage += 1
    part, rest = match[2], match[3]
    if part == "conv":
        return f"stages.{stage}.downsample{rename_conv_norm('.' + rest)}"
    return f"stages.{stage}.blocks.{index - 1}.{('graph', 'ffn')[int(part)]}.{rename_conv_norm(rest)}"


def checkpoint_filter_fn(state_dict: dict[str, Any], model: PyramidVisionGNN) -> dict[str, Tensor]:
    """Original or own tensors of any image size → the state dict of `model`.

    Renames, drops the stored position bias (`relative_pos`) and resizes the position embedding.

    Args:
        state_dict: tensors of a file, under the original names or our own.
        model: the `PyramidVisionGNN` that is to take them.
    """
    state_dict = state_dict.get("state_dict", state_dict)
    depths = [len(stage.blocks) for stage in model.stages]  # type: ignore[arg-type]
    renamed = {
        rename_original(name.removeprefix("module."), depths): tensor
        for name, tensor in state_dict.items()
        if not name.endswith("relative_pos")
    }
    if "stem.pos_embed" in renamed:
        renamed["stem.pos_embed"] = resize_position_embedding(
            renamed["stem.pos_embed"], *model.stem.pos_embed.shape[-2:]
        )
    return renamed


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
        "license": "apache-2.0",  # of this code; a file given with pretrained_cfg_overlay keeps its own
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
    model_args = dict(
        embed_dims=sizes["hidden_sizes"], depths=sizes["depths"], num_groups=2 if family == "gkgnet" else 1
    )
    return build_model_with_cfg(
        PyramidVisionGNN,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), flatten_sequential=True),
        **{**model_args, **kwargs},
    )


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
