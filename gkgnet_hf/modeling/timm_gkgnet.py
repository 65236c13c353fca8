"""Pyramid ViG and GKGNet's patch nodes for timm: the classifier, its pretrained files, the entry points.

Papers:
* Vision GNN: An Image is Worth Graph of Nodes, https://arxiv.org/abs/2206.00272 (`pvig_*`)
* GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition,
  https://arxiv.org/abs/2308.14378 (`gkgnet_*`)
"""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from timm.layers import SelectAdaptivePool2d, register_notrace_function
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    load_pretrained,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from .configuration_gkgnet import VARIANTS
from .group_knn import find_neighbors, max_relative
from .original_files import read_state_dict, rename_original
from .vision_gnn import (
    ConvNorm,
    PyramidVisionGNN,
    check_batch_statistics,
    grid_size,
    init_weights,
    position_bias,
    resize_position_embedding,
)

# torch.fx cannot trace what depends on a shape: timm records a call of each as one node.
for function in (find_neighbors, max_relative, position_bias, resize_position_embedding, check_batch_statistics):
    register_notrace_function(function)


class ClassifierHead(nn.Module):
    """Global pooling, hidden 1×1 conv with batch norm and GELU, dropout, 1×1 conv.

    Without pooling (`pool_type=""`) the classifier applies to every position and the output keeps its grid.

    Args:
        in_features: width of the feature map.
        num_classes: 0 for no classifier.
        pool_type: a timm pooling that keeps the width ("avg", "max", "avgmax") or "".
        hidden_size: width of the hidden layer; 0 for no hidden layer.
        drop_rate: dropout in front of the classifier.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pool_type: str = "avg",
        hidden_size: int = 1024,
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.num_features = hidden_size or in_features
        self.hidden = ConvNorm(in_features, hidden_size, **dd) if hidden_size else nn.Identity()
        self.act = nn.GELU() if hidden_size else nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool_type, **dd)

    def reset(self, num_classes: int, pool_type: str | None = None, device=None, dtype=None) -> None:
        """A fresh classifier of `num_classes`; the pooling stays where `pool_type` is None."""
        if pool_type is not None:
            global_pool = SelectAdaptivePool2d(pool_type=pool_type)
            assert global_pool.feat_mult() == 1, f"global_pool={pool_type!r} changes the width, which is not supported."
            self.global_pool = global_pool
            self.flatten = nn.Flatten(1) if pool_type else nn.Identity()
        self.fc = (
            nn.Conv2d(self.num_features, num_classes, 1, device=device, dtype=dtype)
            if num_classes > 0
            else nn.Identity()
        )
        init_weights(self.fc)
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) → (B, num_classes), or with `pre_logits` what the classifier would be given."""
        x = self.drop(self.act(self.hidden(self.global_pool(x))))
        return self.flatten(x if pre_logits else self.fc(x))


class PyramidVisionGNNClassifier(PyramidVisionGNN):
    """Patch nodes and a classifier.

    Args:
        img_size: side, or (height, width), that the position embedding is made for; any other size resizes it.
        in_chans: channels of the image.
        num_classes: classes of the head; 0 for none.
        global_pool: pooling of the head, "" for none.
        embed_dims: widths C1 … C4 of the stages.
        head_hidden_size: width of the head's hidden layer; 0 for no hidden layer.
        drop_rate: dropout in front of the classifier.
        **kwargs: as for `PyramidVisionGNN`.

    >>> model = PyramidVisionGNNClassifier(64, num_classes=5, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))
    >>> model(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: tuple[int, ...] = (80, 160, 400, 640),
        head_hidden_size: int = 1024,
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
        **kwargs: Any,
    ):
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(img_size, in_chans, embed_dims, **kwargs, **dd)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = embed_dims[-1]
        self.head_hidden_size = head_hidden_size or self.num_features
        self.feature_info = [
            dict(num_chs=dim, reduction=4 * 2**i, module=f"stages.{i}") for i, dim in enumerate(embed_dims)
        ]
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, head_hidden_size, drop_rate, **dd)
        self.head.apply(init_weights)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Load an original file, or one of timm; timm calls this for files and urls (`custom_load`)."""
        source = {**self.pretrained_cfg, "state_dict": read_state_dict(checkpoint_path)}  # type: ignore[dict-item]
        load_pretrained(self, source, self.num_classes, self.in_chans, filter_fn=checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm's optimisers do not decay."""
        return {"stem.pos_embed"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm groups parameters for layer decay: by block, or with `coarse` by stage."""
        return dict(
            stem=r"^stem",
            blocks=[(r"^stages\.(\d+)", None)]
            if coarse
            else [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)],
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass, which saves memory, or no longer do."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer, from (B, num_features, H, W) to (B, num_classes, H, W); the identity without classes."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; the pooling stays where `global_pool` is None."""
        self.num_classes = num_classes
        weight = self.stem.conv1.conv.weight
        self.head.reset(num_classes, global_pool, device=weight.device, dtype=weight.dtype)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resize the position embedding for another input size, in place of a resize in every forward."""
        pos_embed = self.stem.pos_embed
        resized = resize_position_embedding(pos_embed.detach(), *grid_size(img_size))
        self.stem.pos_embed = nn.Parameter(resized.clone(), requires_grad=pos_embed.requires_grad)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features after the stages asked for.

        Args:
            x: images (B, in_chans, H, W).
            indices: the last n stages if int, all if None, these stages if a list.
            norm: accepted for timm's protocol; there is no final norm to apply.
            stop_early: stop after the last stage asked for.
            output_fmt: only "NCHW".
            intermediates_only: leave out the final features.

        Returns:
            The list of feature maps (B, C_i, H_i, W_i), or (final features, list).
        """
        assert output_fmt in ("NCHW",), "Output shape must be NCHW."
        intermediates = []
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        x = self.stem(x)
        if torch.jit.is_scripting() or not stop_early:  # noqa: SIM108, torchscript cannot slice a Sequential
            stages = self.stages
        else:
            stages = self.stages[: max_index + 1]
        for i, stage in enumerate(stages):
            x = stage(x)
            if i in take_indices:
                intermediates.append(x)
        if intermediates_only:
            return intermediates
        return x, intermediates

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages behind the last one asked for, and the head with them."""
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        if prune_head or max_index < len(self.stages) - 1:
            self.stages = self.stages[: max_index + 1]
            self.num_classes = 0
            self.num_features = self.head_hidden_size = self.feature_info[max_index]["num_chs"]
            self.head = ClassifierHead(self.num_features, 0, "", 0).train(self.training)
        return take_indices

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map (B, C4, H, W) → logits (B, num_classes); with `pre_logits` (B, num_features of the head)."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) → logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state_dict: dict[str, Any], model: PyramidVisionGNN) -> dict[str, Tensor]:
    """Original or own tensors of any image size → the state dict of `model`.

    Renames, drops the stored position bias (`relative_pos`) and resizes the position embedding.

    Args:
        state_dict: tensors of a file, under the original names or our own.
        model: the `PyramidVisionGNN` that is to take them.
    """
    depths = [len(stage.blocks) for stage in model.stages]  # type: ignore[arg-type]
    renamed = {
        rename_original(name, depths): tensor
        for name, tensor in read_state_dict(state_dict).items()
        if not name.endswith("relative_pos")
    }
    if "stem.pos_embed" in renamed:
        renamed["stem.pos_embed"] = resize_position_embedding(
            renamed["stem.pos_embed"], *model.stem.pos_embed.shape[-2:]
        )
    return renamed


FILES = "https://github.com/huawei-noah/Efficient-AI-Backbones/releases/download/pyramid-vig/"


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1.conv",
        "classifier": "head.fc",
        "license": "apache-2.0",
        "origin_url": "https://github.com/huawei-noah/Efficient-AI-Backbones",
        **kwargs,
    }


def _pvig_cfg(file: str, crop_pct: float = 0.9) -> dict[str, Any]:
    return _cfg(
        url=FILES + file,
        crop_pct=crop_pct,
        mean=IMAGENET_INCEPTION_MEAN,
        std=IMAGENET_INCEPTION_STD,
        paper_ids="arXiv:2206.00272",
        paper_name="Vision GNN: An Image is Worth Graph of Nodes",
    )


def _gkgnet_cfg(file: str) -> dict[str, Any]:
    return _cfg(
        url=FILES + file,
        paper_ids="arXiv:2308.14378",
        paper_name="GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image "
        "Recognition",
    )


# gkgnet_* start from the weights of Pyramid ViG, as in the paper, and are trained with GKGNet's own preprocessing.
default_cfgs = generate_default_cfgs(
    {
        "gkgnet_ti.pvig_in1k": _gkgnet_cfg("pvig_ti_78.5.pth.tar"),
        "gkgnet_s.pvig_in1k": _gkgnet_cfg("pvig_s_82.1.pth.tar"),
        "gkgnet_m.pvig_in1k": _gkgnet_cfg("pvig_m_83.1.pth.tar"),
        "gkgnet_b.pvig_in1k": _gkgnet_cfg("pvig_b_83.66.pth.tar"),
        "pvig_ti.in1k": _pvig_cfg("pvig_ti_78.5.pth.tar"),
        "pvig_s.in1k": _pvig_cfg("pvig_s_82.1.pth.tar"),
        "pvig_m.in1k": _pvig_cfg("pvig_m_83.1.pth.tar"),
        "pvig_b.in1k": _pvig_cfg("pvig_b_83.66.pth.tar", crop_pct=0.95),
    }
)


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    family, variant = name.split("_")
    sizes = VARIANTS[variant]
    if pretrained:
        kwargs["pretrained_cfg_overlay"] = _read_safely(name, **kwargs)
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


def _read_safely(
    name: str, pretrained_cfg: Any = None, pretrained_cfg_overlay: dict[str, Any] | None = None, **_: Any
) -> dict[str, Any]:
    """The overlay with which repositories and folders give safetensors alone, and other files go to our own reader."""
    overlay = pretrained_cfg_overlay or {}
    source = resolve_pretrained_cfg(name, pretrained_cfg, overlay)
    if source.source == "local-dir" and not Path(str(source.file), SAFETENSORS_SINGLE_FILE).is_file():
        raise FileNotFoundError(
            f"{source.file} must hold {SAFETENSORS_SINGLE_FILE}; for a pickle use the name of the model and "
            "pretrained_cfg_overlay=dict(file=...)"
        )
    if source.source == "hf-hub" or (source.hf_hub_id and not source.file and not source.state_dict):
        return {"hf_hub_filename": SAFETENSORS_SINGLE_FILE, **overlay}
    return {**overlay, "custom_load": True}  # timm then calls load_pretrained of the model


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
