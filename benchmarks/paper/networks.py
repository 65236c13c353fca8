"""The networks that are compared, all on patch nodes of the same size and with the same first weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gkgnet_hf import GKGNetConfig, GKGNetForImageClassification

from .rivals import CTran, LinearHead, Query2Label

IMAGE_SIZE = 112
PATCHES = {"hidden_sizes": (24, 48, 120, 192), "depths": (1, 1, 3, 1), "image_size": IMAGE_SIZE, "drop_path_rate": 0.05}
CNN = "regnetx_002"  # as many parameters as the patch nodes with their label nodes


class GKGNet(nn.Module):
    """GKGNet as images → logits. `num_groups` is for patch nodes and label nodes; `pooled_patches=False` leaves the
    pooled patches out of the logits."""

    def __init__(self, num_labels: int, num_groups: int = 2, pooled_patches: bool = True, **changes: Any):
        super().__init__()
        groups, self.pooled_patches = num_groups, pooled_patches
        fields = {"num_groups": groups, "num_label_groups": groups, **PATCHES, **changes}
        self.network = GKGNetForImageClassification(GKGNetConfig(num_labels=num_labels, **fields))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) → (B, L)."""
        return self.network(images).logits if self.pooled_patches else self.parts(images)[0]

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) → what label nodes and pooled patches say, (B, L) each, whose sum are the logits."""
        outputs = self.network.gkgnet(images)
        label_nodes = self.network.label_classifier(outputs.label_hidden_state)
        if not self.pooled_patches:
            return (label_nodes,)
        return label_nodes, self.network.patch_classifier(outputs.pooler_output)

    def looks(self, images: Tensor) -> dict[str, float]:
        """(B, 3, H, W) → of the last stage, in %: the patches that two labels have in common among those they gather
        from, what chance would give, and how much of the variance of label nodes lies between images."""
        outputs = self.network.gkgnet(images, output_neighbors=True)
        nodes, neighbors = outputs.label_hidden_state.float(), outputs.label_neighbors[-1]
        _, _, labels, chosen = neighbors.shape
        patches = outputs.last_hidden_state.shape[-2:].numel()
        choices = F.one_hot(neighbors, patches).sum((2, 3)).float()  # labels that chose each patch, (B, G, patches)
        common = (choices * (choices - 1)).sum(-1) / (labels * (labels - 1) * chosen)
        share = nodes.var(0, correction=0).mean() / nodes.flatten(0, 1).var(0, correction=0).mean()
        found = (common.mean().item(), chosen / patches, share.item())
        return dict(zip(("common_patches", "chance", "variance"), (100 * value for value in found), strict=True))


class FeatureMap(nn.Module):
    """The patch nodes alone: images → the last feature map (B, C4, H/32, W/32)."""

    def __init__(self, **changes: Any):
        super().__init__()
        fields = {"num_groups": 1, "num_label_blocks": (0, 0, 0, 0), **PATCHES, **changes}
        config = GKGNetConfig(num_labels=1, **fields)
        self.network = GKGNetForImageClassification(config).gkgnet

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C4, H/32, W/32)."""
        return self.network(images).last_hidden_state


class ConvNet(nn.Module):
    """A CNN of timm: images → the last feature map."""

    def __init__(self):
        super().__init__()
        self.network = timm.create_model(CNN, num_classes=0)
        self.num_features = self.network.num_features

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, H/32, W/32)."""
        return self.network.forward_features(images)


def _on(head: Callable[..., nn.Module], num_labels: int, **changes: Any) -> nn.Module:
    return head(FeatureMap(**changes), PATCHES["hidden_sizes"][-1], num_labels)


def _cnn(num_labels: int) -> nn.Module:
    backbone = ConvNet()
    return LinearHead(backbone, backbone.num_features, num_labels)


# Name → network of `num_labels` labels. Options of the configuration are given as keyword arguments to GKGNet's.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "ViG, linear head": partial(_on, LinearHead),
    "label nodes, G = 1": partial(GKGNet, num_groups=1),
    "label nodes, G = 2": GKGNet,
    "ViG, Q2L": partial(_on, Query2Label),
    "ViG, C-Tran": partial(_on, CTran),
    f"{CNN}, linear head": _cnn,
}


def patch_weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the patch nodes, or of the CNN, under names that all networks share."""
    found = {}
    for name, tensor in model.state_dict().items():
        for mark in ("gkgnet.backbone.", "backbone.network.backbone.", "backbone.network."):
            if mark in name:
                found[name.split(mark, 1)[1]] = tensor
                break
    return found


def load_patch_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Start from learned patch nodes; ValueError unless every tensor has its place."""
    own = patch_weights(model)
    if own.keys() != weights.keys():
        raise ValueError(f"The weights are of another network: {sorted(own.keys() ^ weights.keys())[:5]}")
    with torch.no_grad():
        for name, tensor in own.items():  # the tensors of a state_dict share memory with the model
            tensor.copy_(weights[name])
