"""A network made ready for inference."""

from typing import Any, TypeVar

import torch
from torch import nn

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
        raise ValueError("The model must be in eval mode to be optimised for inference, got one in training mode")
    for module in list(model.modules()):
        if isinstance(module, (FeedForward, GroupKGCN)):
            module.in_bands = True
        for name, child in module.named_children():
            if isinstance(child, ConvNorm):
                setattr(module, name, _fold(child))
    model.register_state_dict_pre_hook(_refuse)
    return model.requires_grad_(False)


@torch.no_grad()
def _fold(layer: ConvNorm) -> nn.Conv2d:
    """The convolution with the batch norm in its weights; they change in place, so that memory never doubles."""
    conv: Any = layer.conv
    norm: Any = layer.norm
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    conv.weight.mul_(scale.view(-1, 1, 1, 1))
    conv.bias.sub_(norm.running_mean).mul_(scale).add_(norm.bias)
    return conv


def _refuse(*args: Any) -> None:
    raise RuntimeError("A model that was optimised for inference cannot be saved: save it before that")
