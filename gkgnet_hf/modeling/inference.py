"""A network made ready for inference."""

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .layers import ConvNorm, FeedForward, GroupKGCN

Model = TypeVar("Model", bound=nn.Module)


def optimize_for_inference(model: Model) -> Model:
    """Fold batch norms into the convolutions and take nodes through the blocks in bands; in place.

    Logits stay the same but for rounding, time and memory go down. The model cannot be trained or saved afterwards, nor
    exported: that is for the model as it was.

    Args:
        model: a GKGNet of transformers or a `gkgnet_*` or `pvig_*` of timm, in eval mode.

    Returns:
        `model`.

    Raises:
        ValueError: if it is in training mode.

    Example:

    ```python
    >>> import timm, torch, gkgnet_hf
    >>> model = gkgnet_hf.optimize_for_inference(timm.create_model("gkgnet_ti", num_classes=3).eval())
    >>> model(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 3])

    ```"""
    if model.training:
        raise ValueError(
            "optimize_for_inference needs a model in eval mode, got one in training mode: call eval() first"
        )
    for module in list(model.modules()):
        if isinstance(module, (FeedForward, GroupKGCN)):
            module.in_bands = True
        for name, child in module.named_children():
            if isinstance(child, ConvNorm):
                setattr(module, name, _fold(child))
    model.register_state_dict_pre_hook(_refuse)
    return model


def _fold(layer: ConvNorm) -> nn.Conv2d:
    return fuse_conv_bn_eval(layer.conv, layer.norm).requires_grad_(False).to(memory_format=torch.channels_last)


def _refuse(module: nn.Module, *args: object) -> None:
    raise RuntimeError(
        "A model that was optimised for inference cannot be saved: save it before optimize_for_inference"
    )
