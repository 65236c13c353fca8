"""A gradient method beside the shares, for comparison: Grad-CAM (https://arxiv.org/abs/1610.02391) by captum."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BaseImageProcessor

from ..modeling.image_processing_gkgnet import to_pixel_values
from ..modeling.modeling_gkgnet import GKGNetForImageClassification
from ..predict import eval_mode
from .attribution import ImageLike, label_rows, read_image


def gradient_heat(
    model: GKGNetForImageClassification, processor: BaseImageProcessor, image: ImageLike, labels: Sequence[str]
) -> NDArray[np.float32]:
    """Grad-CAM of labels at the last stage: its patches, weighted by the mean gradient of the label's logit.

    Args:
        model, processor, image: as in `explain`.
        labels: L names.

    Returns:
        (L, rows, columns) on the last stage's grid, each summing to 1, or all 0 where no patch speaks for the label.

    Raises:
        ImportError: without captum (`pip install 'gkgnet-hf[explain]'`).
        ValueError: without any label; else as `explain`.

    Example:

        seen.plot_maps(dict(zip(labels, gradient_heat(model, processor, "street.jpg", labels))))
    """
    rows = label_rows(model, labels)
    if not rows:
        raise ValueError("There must be one label or more, got none")
    pixel_values = to_pixel_values(processor, [read_image(processor, image)[1]]).to(model.device, model.dtype)
    return grad_cam(model, pixel_values.expand(len(rows), -1, -1, -1), rows)


def grad_cam(model: GKGNetForImageClassification, pixel_values: Tensor, labels: Sequence[int]) -> NDArray[np.float32]:
    """Grad-CAM of one label (its row) of each of N images (N, channels, H, W), as in `gradient_heat`."""
    from captum.attr import LayerGradCam

    with eval_mode(model), torch.enable_grad():
        method = LayerGradCam(lambda images: model(images).logits, model.gkgnet.backbone.stages[-1])
        maps = method.attribute(pixel_values, target=list(labels), relu_attributions=True)
    heat = maps.detach()[:, 0].float().cpu().numpy()
    return heat / np.maximum(heat.sum((1, 2), keepdims=True), 1e-20)
