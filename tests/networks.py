"""Small networks for tests that need one which scores, but has not learned anything."""

import torch

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification


def small_classifier(names, image_size, spread=0.1, **fields):
    """A GKGNet in eval mode whose weights are drawn so that its scores differ: by more with a larger `spread`."""
    torch.manual_seed(0)
    id2label = dict(enumerate(names))
    config = GKGNetConfig(
        hidden_sizes=(8, 16, 24, 32), depths=(1, 1, 1, 1), image_size=image_size, id2label=id2label, **fields
    )
    model = GKGNetForImageClassification(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1 or "classifier" in name:
                tensor.normal_(0, spread)
    return model
