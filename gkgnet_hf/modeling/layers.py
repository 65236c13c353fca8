"""The parts of the network: stem, downsampling, feed-forward block and the two Group KGCN modules."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .group_knn import find_neighbors, max_relative

# Groups of the convolution that updates the nodes: always 4, whatever the number of graph groups.
UPDATE_GROUPS = 4

# Nodes that a block prepared for inference widens at a time: what lies between its layers then stays in cache.
BAND = 4096


class ConvNorm(nn.Sequential):
    """Convolution with bias, then batch norm."""

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, groups=1, device=None, dtype=None):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            device=device,
            dtype=dtype,
        )
        self.norm = nn.BatchNorm2d(out_channels, device=device, dtype=dtype)


def channels_last(x: Tensor) -> Tensor:
    """The nodes (B, C, H, W) with the channels of each side by side in memory, where they stay through the network."""
    return x.contiguous(memory_format=torch.channels_last)


def gelu(x: Tensor) -> Tensor:
    """GELU of nodes (B, C, H, W); on CPU it is several times slower for channels-last tensors than for their rows."""
    return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def by_bands(branch: Callable[..., Tensor], *nodes: Tensor) -> Tensor:
    """`nodes[0] + branch(*nodes)` of nodes (B, C, H, W) for a branch that treats each on its own.

    On CPU `BAND` nodes at a time; elsewhere at once, since a GPU has no such cache to stay in.
    """
    if nodes[0].device.type != "cpu":
        return nodes[0] + branch(*nodes)
    batch, _, height, width = nodes[0].shape
    rows = [x.permute(0, 2, 3, 1).reshape(1, batch * height * width, 1, x.shape[1]) for x in nodes]
    rows = [x.permute(0, 3, 1, 2) for x in rows]  # (1, C, B·H·W, 1)
    out = torch.empty_like(rows[0])
    for first in range(0, batch * height * width, BAND):
        band = [x[:, :, first : first + BAND] for x in rows]
        out[:, :, first : first + BAND] = band[0] + branch(*band)
    return out.permute(0, 2, 3, 1).reshape(batch, height, width, nodes[0].shape[1]).permute(0, 3, 1, 2)


class Stem(nn.Module):
    """Image (B, in_channels, H, W) → patch nodes (B, dim, H/4, W/4), sides rounded up, position embedding added.

    Args:
        in_channels: channels of the image.
        dim: width C1.
        grid_size: (rows, columns) of the learned position embedding; another grid resizes it bicubically.
    """

    def __init__(self, in_channels: int, dim: int, grid_size: tuple[int, int], device=None, dtype=None):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.conv1 = ConvNorm(in_channels, dim // 2, kernel_size=3, stride=2, **dd)
        self.conv2 = ConvNorm(dim // 2, dim, kernel_size=3, stride=2, **dd)
        self.conv3 = ConvNorm(dim, dim, kernel_size=3, **dd)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *grid_size, **dd))

    def forward(self, x: Tensor) -> Tensor:
        x = gelu(self.conv1(channels_last(x)))
        x = gelu(self.conv2(x))
        x = self.conv3(x)
        return x + resize_position_embedding(self.pos_embed, x.shape[-2], x.shape[-1])


def resize_position_embedding(pos_embed: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resize of a learned position embedding (1, C, h, w) → (1, C, height, width); itself where it fits."""
    # torch.export traces sizes that are no int; to compare one would fix it to the size of its example.
    if isinstance(height, int) and isinstance(width, int) and pos_embed.shape[-2:] == (height, width):
        return pos_embed
    resized = F.interpolate(pos_embed.float(), size=(height, width), mode="bicubic", align_corners=False)
    return resized.to(pos_embed.dtype)


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): in training, x (B, C, H, W) is zero for some images.

    Args:
        drop_prob: probability of that, less than 1; what stays is scaled up, so that the mean remains.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)


class FeedForward(nn.Module):
    """Residual feed-forward block on nodes (B, C, H, W): 1×1 conv to `ratio`·C, GELU, 1×1 conv back."""

    def __init__(self, dim: int, ratio: int = 4, drop_path: float = 0.0, device=None, dtype=None):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = ConvNorm(dim, ratio * dim, **dd)
        self.fc2 = ConvNorm(ratio * dim, dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.in_bands = False

    def forward(self, x: Tensor) -> Tensor:
        return self.by_bands(x) if self.in_bands else x + self.branch(x)

    @torch.jit.unused
    def by_bands(self, x: Tensor) -> Tensor:
        return by_bands(self.branch, x)

    def branch(self, x: Tensor) -> Tensor:
        return self.drop_path(self.fc2(gelu(self.fc1(x))))


class GroupKGCN(nn.Module):
    """What both Group KGCN modules share (paper section 3.2): project, aggregate max-relative, update, residual.

    Args:
        dim: width C, divisible by `num_groups`, and 2·C by 4.
        num_neighbors: K.
        num_groups: G; each group of C/G channels finds its own neighbours.
        drop_path: drop-path rate of the residual branch.
    """

    def __init__(
        self,
        dim: int,
        num_neighbors: int = 9,
        num_groups: int = 2,
        drop_path: float = 0.0,
        device=None,
        dtype=None,
    ):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.num_neighbors = num_neighbors
        self.num_groups = num_groups
        self.fc1 = ConvNorm(dim, dim, **dd)
        self.graph_conv = ConvNorm(2 * dim, 2 * dim, groups=UPDATE_GROUPS, **dd)
        self.fc2 = ConvNorm(2 * dim, dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.in_bands = False

    def split_groups(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, G, H·W, C/G)."""
        nodes = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H·W, C), a view
        return nodes.unflatten(2, (self.num_groups, -1)).transpose(1, 2)

    def merge_groups(self, relative: Tensor, grid: Tensor) -> Tensor:
        """(B, G, H·W, C/G) → (B, C, H, W), of the shape of `grid`."""
        nodes = relative.transpose(1, 2).flatten(2)  # (B, H·W, C)
        return nodes.unflatten(1, (grid.shape[2], grid.shape[3])).permute(0, 3, 1, 2)

    def update(self, x: Tensor, h: Tensor, messages: Tensor) -> Tensor:
        """New nodes from the old `x`, their projection `h` and the messages, all (B, C, H, W)."""
        return self.by_bands(x, h, messages) if self.in_bands else x + self.branch(x, h, messages)

    @torch.jit.unused
    def by_bands(self, x: Tensor, h: Tensor, messages: Tensor) -> Tensor:
        return by_bands(self.branch, x, h, messages)

    def branch(self, x: Tensor, h: Tensor, messages: Tensor) -> Tensor:
        interleaved = torch.stack((h.permute(0, 2, 3, 1), messages.permute(0, 2, 3, 1)), dim=4)
        pairs = interleaved.flatten(3).permute(0, 3, 1, 2)  # h_1, m_1, h_2, m_2, …: (B, 2C, H, W)
        return self.drop_path(self.fc2(gelu(self.graph_conv(pairs))))


class PatchGroupKGCN(GroupKGCN):
    """Patch-level Group KGCN: every patch gathers from its nearest patches of the r×r-pooled map.

    Args:
        pool_ratio: r.
        dilation: d; of the K·d nearest patches every d-th is kept.
        **kwargs: as for `GroupKGCN`.
    """

    def __init__(self, dim: int, pool_ratio: int = 1, dilation: int = 1, **kwargs):
        super().__init__(dim, **kwargs)
        self.dilation = dilation
        self.pool = nn.AvgPool2d(pool_ratio) if pool_ratio > 1 else nn.Identity()

    def forward(self, x: Tensor, bias: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, C, H, W) and the position bias of its grid → (B, C, H, W)."""
        h = self.fc1(x)
        destinations = self.split_groups(h)
        sources = self.split_groups(self.pool(h))
        neighbors = find_neighbors(
            destinations.detach(), sources.detach(), self.num_neighbors, self.dilation, bias
        )  # (B, G, H·W, K)
        return self.update(x, h, self.merge_groups(max_relative(destinations, sources, neighbors), h))


class LabelGroupKGCN(GroupKGCN):
    """Cross-level Group KGCN: every label gathers from the patches nearest to it."""

    def forward(self, labels: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, C, 1, L) and patches (B, C, H, W) → labels and neighbours (B, G, L, K), row-major positions."""
        h = self.fc1(labels)
        destinations = self.split_groups(h)
        sources = self.split_groups(patches)
        neighbors = find_neighbors(destinations.detach(), sources.detach(), self.num_neighbors)
        messages = self.merge_groups(max_relative(destinations, sources, neighbors), h)
        return self.update(labels, h, messages), neighbors
