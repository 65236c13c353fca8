"""The reference path for a whole model, so that the default one can be measured against it."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from gkgnet_hf.modeling import group_knn, vision_gnn
from gkgnet_hf.modeling.vision_gnn import GroupKGCN


@contextmanager
def reference_path() -> Iterator[None]:
    """Within it the network is computed as it is written down: channels first, every graph materialised."""
    with (
        patch.object(group_knn, "_leaves_pytorch", lambda: True),
        patch.object(vision_gnn, "channels_last", lambda x: x),
        patch.object(vision_gnn, "gelu", F.gelu),
        patch.object(vision_gnn, "batch_norm_gelu", lambda norm, x: F.gelu(norm(x))),
        patch.object(GroupKGCN, "split_groups", split_groups),
        patch.object(GroupKGCN, "merge_groups", merge_groups),
        patch.object(GroupKGCN, "branch", branch),
    ):
        yield


def split_groups(self: GroupKGCN, x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, G, H·W, C/G)."""
    return x.flatten(2).unflatten(1, (self.num_groups, -1)).transpose(2, 3).contiguous()


def merge_groups(self: GroupKGCN, relative: Tensor, grid: Tensor) -> Tensor:
    """(B, G, H·W, C/G) → (B, C, H, W)."""
    return relative.transpose(2, 3).reshape_as(grid)


def branch(self: GroupKGCN, x: Tensor, h: Tensor, messages: Tensor) -> Tensor:
    """As in GroupKGCN."""
    pairs = torch.stack((h, messages), dim=2).flatten(1, 2)
    return self.drop_path(self.fc2(self.graph_conv(pairs)))
