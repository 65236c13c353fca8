"""Where the weights of a training run come from."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from ..hub.released import load_backbone_checkpoint, load_released_checkpoint
from ..modeling.configuration_gkgnet import VARIANTS, GKGNetConfig
from ..modeling.modeling_gkgnet import GKGNetForImageClassification, loss_settings
from ..modeling.vision_gnn import resize_position_embedding
from ..predict import load_model

logger = logging.getLogger(__name__)

# Tensors with one row per label.
LABEL_TENSORS = (
    "gkgnet.label_embedding.weight",
    "label_classifier.weight",
    "label_classifier.bias",
    "patch_classifier.weight",
    "patch_classifier.bias",
)
# Fields of a configuration that its labels or its file decide.
NOT_HANDED_ON = ("id2label", "label2id", "num_labels", "decision_threshold", "model_type", "transformers_version")


def create_model(
    labels: Sequence[str],
    model: str = "s",
    image_size: int | None = None,
    backbone_checkpoint: str | None = None,
    loss: str | None = None,
    **config: Any,
) -> GKGNetForImageClassification:
    """A network for these labels, from random weights, ImageNet weights or another GKGNet.

    Args:
        labels: label names in order.
        model: a size ("ti", "s", "m", "b"), or a GKGNet to start from: a folder, a name on the Hub or a released
            file. Labels of the same name keep their weights; new labels start at random.
        image_size: side in pixels; default that of `model`, 224 for a size. The position embedding is resized.
        backbone_checkpoint: what the patch nodes of a size start from: "imagenet" downloads Pyramid ViG's weights of
            that size, as in the paper; a path is read as in `load_backbone_checkpoint`; "none" starts at random. With
            another GKGNet as `model`, "imagenet" and "none" change nothing.
        loss: name of a multi-label loss of `LOSSES`: "paper", "asymmetric", "bce", "focal", "hill" or "splc"; default
            that of `model`, "paper" for a size.
        **config: other fields of `GKGNetConfig`; they win over the constants of `loss`.

    Raises:
        ValueError: for another loss, or any beside another `problem_type`; if the weights do not fit the configuration,
            or a file is given beside another GKGNet.
        OSError: if the ImageNet weights cannot be downloaded.

    >>> create_model(["cat", "dog"], "ti", num_groups=1).config.id2label
    {0: 'cat', 1: 'dog'}
    """
    _check_fields(config)
    config = {**(loss_settings(loss) if loss is not None else {}), **config, "id2label": dict(enumerate(labels))}
    if image_size is not None:
        config["image_size"] = image_size
    if model in VARIANTS:
        created = GKGNetForImageClassification(_with_loss(loss, GKGNetConfig.from_variant(model, **config)))
        _start_patch_nodes(created, model, backbone_checkpoint)
        return created
    if backbone_checkpoint not in (None, "none", "imagenet"):
        raise ValueError(f"backbone_checkpoint is for a size ({', '.join(VARIANTS)}); {model} has patch nodes already")
    source = load_released_checkpoint(model) if Path(model).is_file() else load_model(model)
    kept = {name: value for name, value in source.config.to_diff_dict().items() if name not in NOT_HANDED_ON}
    created = GKGNetForImageClassification(_with_loss(loss, GKGNetConfig(**{**kept, **config})))
    _transfer(source, created)
    return created


def _with_loss(loss: str | None, config: GKGNetConfig) -> GKGNetConfig:
    """The configuration; ValueError if its `problem_type` has another loss than the one that was asked for."""
    if loss is not None and config.problem_type in ("single_label_classification", "regression"):
        raise ValueError(f"loss {loss} is for several labels an image, problem_type is {config.problem_type}")
    return config


def _start_patch_nodes(model: GKGNetForImageClassification, size: str, checkpoint: str | None) -> None:
    if checkpoint in (None, "none"):
        logger.info("All weights start at random")
        return
    if checkpoint != "imagenet":
        load_backbone_checkpoint(model, checkpoint)
        logger.info("The patch nodes start from %s, all other weights at random", checkpoint)
        return
    name = f"gkgnet_{size}"
    source: Any = timm.get_pretrained_cfg(name)
    place = source.hf_hub_id or source.url
    try:
        pretrained = timm.create_model(name, pretrained=True, in_chans=model.config.num_channels)
    except (OSError, HTTPException) as error:
        raise OSError(
            f"The ImageNet weights {place} cannot be downloaded: {error}. "
            "Give backbone_checkpoint the path of this file, or none to start at random"
        ) from error
    load_backbone_checkpoint(model, pretrained.state_dict())
    logger.info("The patch nodes start from the ImageNet weights %s, all other weights at random", place)


def _check_fields(config: dict[str, Any]) -> None:
    known = {field.name for field in fields(GKGNetConfig)} - {"id2label", "label2id", "num_labels", "image_size"}
    for name in config.keys() - known:
        close = get_close_matches(name, known, n=1)
        raise ValueError(
            f"{name} is no field of GKGNetConfig to set here{f'; did you mean {close[0]}?' if close else ''}"
        )


@torch.no_grad()
def _transfer(source: GKGNetForImageClassification, target: GKGNetForImageClassification) -> None:
    """Copy every tensor; the rows of labels by name, the position embedding resized."""
    ids: dict[str, int] = source.config.label2id
    names: dict[int, str] = target.config.id2label
    shared = {new: ids[name] for new, name in names.items() if name in ids}
    fresh: dict[str, Tensor] = target.state_dict()
    tensors = source.state_dict()
    for name in LABEL_TENSORS:
        if name in fresh and name in tensors and fresh[name].shape[1:] == tensors[name].shape[1:]:
            rows = fresh[name].clone()
            rows[list(shared)] = tensors[name][list(shared.values())]
            tensors[name] = rows
    positions = "gkgnet.backbone.stem.pos_embed"
    tensors[positions] = resize_position_embedding(tensors[positions], *fresh[positions].shape[-2:])
    shapes, wanted = ({name: tensor.shape for name, tensor in part.items()} for part in (tensors, fresh))
    if misfits := sorted({name for name, _ in shapes.items() ^ wanted.items()}):
        raise ValueError(
            f"The configuration asks for another network than the weights are of: {', '.join(misfits[:5])} differ"
        )
    target.load_state_dict(tensors)
    new = [name for i, name in names.items() if i not in shared]
    logger.info("%d labels start as they were, %d at random: %s", len(shared), len(new), ", ".join(new) or "none")
