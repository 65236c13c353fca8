"""Pyramid Vision GNN, the patch nodes of GKGNet, in the order of its paper.

Stem, graph module, feed-forward, stages and the whole network come first; the position bias of the search and the
preparation for inference stand behind them. Shapes: B images, C channels, an H×W grid of patch nodes.

Papers:
* Vision GNN: An Image is Worth Graph of Nodes, https://arxiv.org/abs/2206.00272 (one group: Pyramid ViG)
* GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition,
  https://arxiv.org/abs/2308.14378 (several groups)
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from .group_knn import find_neighbors, max_relative
from .norm_gelu import batch_norm_gelu
from .packed_conv import PackedConv


class ConvNorm(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H, W), sides divided by the stride and rounded up."""
        x = self.conv(x)
        if not torch.jit.is_scripting():  # noqa: SIM102, TorchScript prunes a condition only where it stands alone
            if isinstance(self.norm, nn.BatchNorm2d) and self.norm.training:  # synchronised ones count all processes
                check_batch_statistics(x)
        return self.norm(x)


class ConvNormGelu(ConvNorm):
    """Convolution with bias, batch norm, GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """As in `ConvNorm`."""
        x = self.conv(x)
        if not torch.jit.is_scripting():  # noqa: SIM102, as in ConvNorm
            if isinstance(self.norm, nn.BatchNorm2d) and self.norm.training:
                check_batch_statistics(x)
                if isinstance(x, Tensor):  # not where torch.fx traces the model
                    return batch_norm_gelu(self.norm, x)
        return gelu(self.norm(x))


def check_batch_statistics(x: Tensor) -> None:
    """Raise ValueError where batch norm in training mode would have one value a channel to take statistics of."""
    if x.shape[0] * x.shape[2] * x.shape[3] == 1:
        raise ValueError(
            f"Batch norm cannot train on one image with one node or label, got {tuple(x.shape)}: give two images or "
            "more a batch (drop_last=True leaves out an incomplete last batch), or a larger image"
        )


def channels_last(x: Tensor) -> Tensor:
    """The nodes (B, C, H, W) with the channels of each side by side in memory, where they stay through the network."""
    return x.contiguous(memory_format=torch.channels_last)


def gelu(x: Tensor) -> Tensor:
    """GELU of nodes (B, C, H, W); on CPU it is several times slower for channels-last tensors than for their rows."""
    return F.gelu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
        self.conv1 = ConvNormGelu(in_channels, dim // 2, kernel_size=3, stride=2, **dd)
        self.conv2 = ConvNormGelu(dim // 2, dim, kernel_size=3, stride=2, **dd)
        self.conv3 = ConvNorm(dim, dim, kernel_size=3, **dd)
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *grid_size, **dd))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, dim, H/4, W/4), sides rounded up."""
        x = self.conv3(self.conv2(self.conv1(channels_last(x))))
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
        """(B, C, H, W) → (B, C, H, W); outside training `x` itself."""
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)


# Groups of the convolution that updates the nodes: always 4, whatever the number of graph groups.
UPDATE_GROUPS = 4


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
        self.graph_conv = ConvNormGelu(2 * dim, 2 * dim, groups=UPDATE_GROUPS, **dd)
        self.fc2 = ConvNorm(2 * dim, dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def split_groups(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, G, H·W, C/G)."""
        # Not unflatten: torch's TorchScript exporter to ONNX would take the sizes of its example for constants.
        batch, dim, height, width = x.shape
        nodes = x.permute(0, 2, 3, 1).reshape(batch, height * width, self.num_groups, dim // self.num_groups)  # a view
        return nodes.transpose(1, 2)

    def merge_groups(self, relative: Tensor, grid: Tensor) -> Tensor:
        """(B, G, H·W, C/G) → (B, C, H, W), of the shape of `grid`."""
        batch, dim, height, width = grid.shape
        return relative.transpose(1, 2).reshape(batch, height, width, dim).permute(0, 3, 1, 2)

    def update(self, x: Tensor, h: Tensor, messages: Tensor) -> Tensor:
        """New nodes from the old `x`, their projection `h` and the messages, all (B, C, H, W).

        `optimize_for_inference` replaces this method by one that calls `branch` for some nodes at a time.
        """
        return x + self.branch(x, h, messages)

    def branch(self, x: Tensor, h: Tensor, messages: Tensor) -> Tensor:
        """What `update` adds to `x`, (B, C, H, W); each node by itself."""
        return self.drop_path(self.fc2(self.graph_conv(self.join(h, messages))))

    def join(self, h: Tensor, messages: Tensor) -> Tensor:
        """h_1, m_1, h_2, m_2, …: (B, 2C, H, W). `optimize_for_inference` replaces this method by `join_groups`."""
        interleaved = torch.stack((h.permute(0, 2, 3, 1), messages.permute(0, 2, 3, 1)), dim=4)
        return interleaved.flatten(3).permute(0, 3, 1, 2)


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
        sources, neighbors = self.search(h, bias)
        messages = max_relative(self.split_groups(h), self.split_groups(sources), neighbors)
        return self.update(x, h, self.merge_groups(messages, h))

    def search(self, h: Tensor, bias: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Projected patches (B, C, H, W) → sources (B, C, ⌊H/r⌋, ⌊W/r⌋) and neighbours (B, G, H·W, K)."""
        sources = self.pool(h)
        destinations = self.split_groups(h).detach()
        neighbors = find_neighbors(
            destinations, self.split_groups(sources).detach(), self.num_neighbors, self.dilation, bias
        )
        return sources, neighbors


class FeedForward(nn.Module):
    """Residual feed-forward block on nodes (B, C, H, W): 1×1 conv to `ratio`·C, GELU, 1×1 conv back."""

    def __init__(self, dim: int, ratio: int = 4, drop_path: float = 0.0, device=None, dtype=None):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.fc1 = ConvNormGelu(dim, ratio * dim, **dd)
        self.fc2 = ConvNorm(ratio * dim, dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W). `optimize_for_inference` replaces this method, as `GroupKGCN.update`."""
        return x + self.branch(x)

    def branch(self, x: Tensor) -> Tensor:
        """What `forward` adds to `x`, (B, C, H, W); each node by itself."""
        return self.drop_path(self.fc2(self.fc1(x)))


class Block(nn.Module):
    """Patch-level Group KGCN, then feed-forward (paper eq. 2); arguments as theirs."""

    def __init__(self, dim: int, mlp_ratio: int = 4, drop_path: float = 0.0, device=None, dtype=None, **graph):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.graph = PatchGroupKGCN(dim, drop_path=drop_path, **graph, **dd)
        self.ffn = FeedForward(dim, mlp_ratio, drop_path=drop_path, **dd)

    def forward(self, x: Tensor, bias: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, C, H, W) and the position bias of its grid → (B, C, H, W)."""
        return self.ffn(self.graph(x, bias))


def checkpoint_block(checkpoint: Callable[..., Tensor], block: nn.Module, run: Callable, *args: Any) -> Tensor:
    """`checkpoint(run, *args)` for gradient checkpointing, where `run` runs `block`; its batch norms count once."""
    if not torch.compiler.is_compiling():  # a compiled graph updates statistics once by itself
        run = _StatisticsOnce(run, block)
    return checkpoint(run, *args)


class _StatisticsOnce:
    """Calls `run`; from the second call on, which the backward pass makes, the batch norms of `block` keep theirs.

    A momentum of 0 does that. To copy the statistics back instead would trip autograd, which has saved them.
    """

    def __init__(self, run: Callable[..., Tensor], block: nn.Module):
        self.run = run
        self.norms: list[Any] = [
            module for module in block.modules() if getattr(module, "num_batches_tracked", None) is not None
        ]
        self.again = False

    def __call__(self, *args: Any) -> Tensor:
        norms, self.again = self.norms if self.again else [], True
        kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        try:
            for norm in norms:
                norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
            return self.run(*args)
        finally:  # a backward pass that has all it needs stops the run by an exception
            for norm, (momentum, count) in zip(norms, kept, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count


class Stage(nn.Module):
    """Optional 3×3 stride-2 downsampling, then blocks that share one position bias.

    Args:
        in_dim: width before; None in the first stage, which does not downsample.
        dim: width after.
        blocks: the blocks, of width `dim`.
        pool_ratio: pooling ratio of the blocks' sources.
        use_position_bias: whether the search adds the position bias.
    """

    def __init__(
        self,
        in_dim: int | None,
        dim: int,
        blocks: list[Block],
        pool_ratio: int,
        use_position_bias: bool,
        device=None,
        dtype=None,
    ):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.pool_ratio = pool_ratio
        self.use_position_bias = use_position_bias
        self.grad_checkpointing = False
        downsample = in_dim is not None
        self.downsample = ConvNorm(in_dim, dim, kernel_size=3, stride=2, **dd) if downsample else nn.Identity()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) → (B, C, H/2, W/2), sides rounded up; (B, C, H, W) in the first stage."""
        x = self.downsample(x)
        bias = self.position_bias(x) if self.use_position_bias else None
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_block(partial(checkpoint, use_reentrant=False), block, block, x, bias)
            else:
                x = block(x, bias)
        return x

    def position_bias(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`position_bias` of the grid. `optimize_for_inference` replaces this method by `KeptBias`."""
        return position_bias(x, self.pool_ratio)


class PyramidVisionGNN(nn.Module):
    """Patch nodes in four stages of graph blocks.

    There is no `forward`: `GKGNetModel` walks through `stem` and `stages` itself, since its label nodes gather from the
    patches after each stage, and the classifier of timm adds its own.

    Args:
        img_size: side, or (height, width), that the position embedding is made for; any other size resizes it.
        in_chans: channels of the image.
        embed_dims: widths C1 … C4, each divisible by `num_groups` and by 4.
        depths: blocks per stage.
        pool_ratios: side of the average pooling of the sources, per stage.
        mlp_ratio: hidden width of the feed-forward blocks over C.
        num_neighbors: K.
        num_groups: G; 1 is Pyramid ViG.
        blocks_per_dilation: the dilation grows by one each time this many blocks have passed.
        max_dilated_neighbors: the dilation stops growing where K·d would pass this.
        use_position_bias: whether the search adds the sine-cosine position bias.
        drop_path_rate: drop-path rate of the last block; it rises linearly from 0 at the first.
        block_layer: class of the blocks, `Block` or one derived from it.

    >>> model = PyramidVisionGNN(64, embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))
    >>> model.forward_features(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 32, 2, 2])
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        embed_dims: tuple[int, ...] = (80, 160, 400, 640),
        depths: tuple[int, ...] = (2, 2, 6, 2),
        pool_ratios: tuple[int, ...] = (4, 2, 1, 1),
        mlp_ratio: int = 4,
        num_neighbors: int = 9,
        num_groups: int = 2,
        blocks_per_dilation: int = 4,
        max_dilated_neighbors: int = 49,
        use_position_bias: bool = True,
        drop_path_rate: float = 0.0,
        block_layer: type[Block] = Block,
        device=None,
        dtype=None,
    ):
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__()
        self.stem = Stem(in_chans, embed_dims[0], grid_size(img_size), **dd)
        drop_path_rates = block_drop_paths(sum(depths), drop_path_rate)
        dilations = block_dilations(sum(depths), num_neighbors, blocks_per_dilation, max_dilated_neighbors)
        stages = []
        first = 0
        for i, (dim, depth, pool_ratio) in enumerate(zip(embed_dims, depths, pool_ratios, strict=True)):
            blocks = [
                block_layer(
                    dim,
                    mlp_ratio,
                    drop_path=drop_path_rates[b],
                    num_neighbors=num_neighbors,
                    num_groups=num_groups,
                    pool_ratio=pool_ratio,
                    dilation=dilations[b],
                    **dd,
                )
                for b in range(first, first + depth)
            ]
            first += depth
            in_dim = embed_dims[i - 1] if i > 0 else None
            stages.append(Stage(in_dim, dim, blocks, pool_ratio, use_position_bias, **dd))
        self.stages = nn.Sequential(*stages)
        self.apply(init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) → last feature map (B, C4, H/32, W/32), sides rounded up."""
        return self.stages(self.stem(x))


def grid_size(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the patch nodes of an image: a quarter of its sides, rounded up."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return -(-height // 4), -(-width // 4)


def block_dilations(
    num_blocks: int, num_neighbors: int, blocks_per_dilation: int, max_dilated_neighbors: int
) -> list[int]:
    """Dilation d of every patch block, counted over the whole network.

    >>> block_dilations(12, 9, blocks_per_dilation=4, max_dilated_neighbors=49)
    [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    """
    largest = max(1, max_dilated_neighbors // num_neighbors)
    return [min(b // blocks_per_dilation + 1, largest) for b in range(num_blocks)]


def block_drop_paths(num_blocks: int, drop_path_rate: float) -> list[float]:
    """Drop-path rate of every patch block: linear from 0 at the first to the full rate at the last."""
    return [drop_path_rate * b / max(1, num_blocks - 1) for b in range(num_blocks)]


def init_weights(module: nn.Module) -> None:
    """Kaiming normal (fan in, gain √2) for convolutions, zero biases; norms and embeddings keep their own."""
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)


def position_bias(x: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """The position bias of the neighbour search: a fixed function of the grid, the width and the pooling ratio.

    The search adds `−(2/C) · P · (R P)ᵀ` to the squared cosine distance, where P is the 2-D sine-cosine embedding of
    the grid and R resamples the *flattened* source index, as the weights of Pyramid ViG were trained.
    `position_bias_reference` computes this as written. Here sin a · sin b + cos a · cos b = cos(a − b) takes the axes
    apart: the bias of destination (y, x) and source m is `rows[y, m] + columns[x, m]`, the sum of two small tables, so
    that nothing of size N·M is stored or computed.

    Args:
        x: (B, C, H, W); only its shape, dtype and device are used. C divisible by 4.
        ratio: pooling ratio r of the sources; there are M = ⌊H/r⌋·⌊W/r⌋ of them.

    Returns:
        rows (H, M) and columns (W, M), float64 for a float64 `x`, else float32.

    >>> rows, columns = position_bias(torch.zeros(1, 8, 4, 6), ratio=2)
    >>> torch.allclose((rows[:, None] + columns).flatten(0, 1), position_bias_reference(4, 6, 8, 2).float(), atol=1e-6)
    True
    """
    height, width = x.shape[-2], x.shape[-1]
    # Angles need float64: at x = 144 their float32 error alone would be 1e-5. Metal has no float64.
    device = torch.device("cpu") if x.device.type == "mps" else x.device
    taps, weights = _bicubic_taps(height * width, (height // ratio) * (width // ratio), device)  # (M, 4) each
    y = taps.div(width, rounding_mode="floor")
    rows = _axis_bias(height, x.shape[1], device) @ _spread(y, weights, height)
    columns = _axis_bias(width, x.shape[1], device) @ _spread(taps - y * width, weights, width)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows, columns = rows.to(dtype), columns.to(dtype)
    return rows.to(x.device), columns.to(x.device)


def position_bias_reference(height: int, width: int, dim: int, ratio: int) -> Tensor:
    """`−(2/C) · P · (R P)ᵀ`, materialised: what `position_bias` is held against, and what released files store.

    Returns:
        (height · width, (height // ratio) · (width // ratio)) float64.

    >>> position_bias_reference(4, 4, 8, ratio=2).shape
    torch.Size([16, 4])
    """
    embedding = sincos_embedding(height, width, dim)
    sources = (height // ratio) * (width // ratio)
    resampled = F.interpolate(
        embedding.T[None, :, None], size=(1, sources), mode="bicubic", align_corners=False
    )  # (1, C, 1, M)
    return -2 / dim * embedding @ resampled[0, :, 0]


def sincos_embedding(height: int, width: int, dim: int) -> Tensor:
    """2-D sine-cosine embedding of a grid: the first half of the columns encodes x, the second half y.

    Args:
        height, width: size of the grid.
        dim: number of columns C, divisible by 4.

    Returns:
        (height · width, dim) float64, positions row-major.

    >>> sincos_embedding(2, 3, 8).shape
    torch.Size([6, 8])
    """
    omega = _frequencies(dim, torch.device("cpu"))
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    angles_x, angles_y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega  # (N, C/4)
    return torch.cat((angles_x.sin(), angles_x.cos(), angles_y.sin(), angles_y.cos()), dim=1)


def _spread(coordinates: Tensor, weights: Tensor, size: int) -> Tensor:
    """How much each of `size` coordinates counts for a source: (M, 4) coordinates and weights → (size, M)."""
    # Not the transpose of (M, size): onnxruntime 1.23 joins it to the product that follows, which it has for float32.
    return weights.new_zeros(size, weights.shape[0]).scatter_add_(0, coordinates.T, weights.T)


def _axis_bias(size: int, dim: int, device: torch.device) -> Tensor:
    """Bias of each pair of coordinates along one axis, by their distance: (size, size) float64."""
    side = torch.arange(size, device=device)
    offsets = side.unsqueeze(1) * _frequencies(dim, device)  # (size, C/4)
    cosines = (offsets + math.pi / 2).sin()  # not cos: onnxruntime 1.23 has none in float64
    kernel = -2.0 / dim * cosines.sum(1)
    return kernel[(side.unsqueeze(1) - side).abs()]


def _frequencies(dim: int, device: torch.device) -> Tensor:
    """ω_j = 10000^(−j / (C/4)) for j = 0 … C/4 − 1, float64."""
    quarter = dim // 4
    return 10000.0 ** (-torch.arange(quarter, dtype=torch.float64, device=device) / quarter)


def _bicubic_taps(size: int, samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where `F.interpolate(mode="bicubic", align_corners=False)` reads to go from `size` to `samples` points.

    Returns:
        indices (samples, 4) int64 and their weights (samples, 4) float64.
    """
    a = -0.75
    # Not * (size / samples): an exported graph would hold that quotient of two sizes in float32.
    position = (torch.arange(samples, dtype=torch.float64, device=device) + 0.5) * size / samples - 0.5
    first = position.floor()
    t = position - first
    near = torch.stack((t, 1 - t), dim=1)  # distances to the two inner taps
    inner = ((a + 2) * near - (a + 3)) * near * near + 1
    far = near + 1
    outer = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    weights = torch.stack((outer[:, 0], inner[:, 0], inner[:, 1], outer[:, 1]), dim=1)
    taps = first.long().unsqueeze(1) + torch.arange(-1, 3, device=device)
    return taps.clamp(0, size - 1), weights


def find_stem(model: nn.Module) -> Stem:
    """The stem of a GKGNet or Pyramid ViG of transformers or timm; ValueError for another network."""
    for module in model.modules():
        if isinstance(module, Stem):
            return module
    raise ValueError(f"The model must be a GKGNet or Pyramid ViG, got {type(model).__name__}")


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
        ValueError: if it is in training mode, or another network.

    Example:

    ```python
    >>> import timm, torch, gkgnet_hf
    >>> model = gkgnet_hf.optimize_for_inference(timm.create_model("gkgnet_ti", num_classes=3).eval())
    >>> model(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 3])

    ```"""
    find_stem(model)
    if any(module.training for module in model.modules()):
        raise ValueError("The model must be in eval mode to be optimised for inference, got one in training mode")
    # The list holds no convolution, so that each is freed as soon as its fused one is there: memory never doubles.
    for module in [module for module in model.modules() if not isinstance(module, (ConvNorm, nn.Conv2d))]:
        if isinstance(module, (GroupKGCN, FeedForward)):
            residual = "forward" if isinstance(module, FeedForward) else "update"
            setattr(module, residual, partial(by_bands, module.branch))
        if isinstance(module, Stage):
            module.position_bias = KeptBias(module.pool_ratio)  # type: ignore[method-assign]
        for name, child in module.named_children():
            if isinstance(child, ConvNorm):
                fused = fuse_conv_bn_eval(child.conv, child.norm)
                if isinstance(module, GroupKGCN) and name == "graph_conv":
                    fused.weight.data = fused.weight.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
                    module.join = join_groups  # type: ignore[method-assign]
                setattr(module, name, PackedConv(fused, isinstance(child, ConvNormGelu)))
    model.register_state_dict_pre_hook(_refuse)
    return model.requires_grad_(False)


def _refuse(*args: Any) -> None:
    raise RuntimeError("A model that was optimised for inference cannot be saved: save it before that")


class KeptBias:
    """`position_bias` of a stage, kept until another grid comes."""

    def __init__(self, pool_ratio: int):
        self.pool_ratio = pool_ratio
        self.kept: tuple[Any, Any] = (None, None)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `position_bias`."""
        if torch.compiler.is_compiling():
            return position_bias(x, self.pool_ratio)
        grid, bias = self.kept
        if grid != (asked := (x.shape[1:], x.dtype, x.device)):
            bias = position_bias(x, self.pool_ratio)
            self.kept = asked, bias
        return bias


def join_groups(h: Tensor, messages: Tensor) -> Tensor:
    """The inputs of each group of the update: its channels of `h`, then those of the messages; (B, 2C, H, W).

    Whole runs of channels are faster to copy than h_1, m_1, h_2, m_2, ….
    """
    groups = [x.permute(0, 2, 3, 1).unflatten(3, (UPDATE_GROUPS, -1)) for x in (h, messages)]
    return torch.cat(groups, 4).flatten(3).permute(0, 3, 1, 2)


# Nodes that a block prepared for inference widens at a time: what lies between its layers then stays in cache.
BAND = 4096


def by_bands(branch: Callable[..., Tensor], *nodes: Tensor) -> Tensor:
    """`nodes[0] + branch(*nodes)` of nodes (B, C, H, W) for a branch that treats each on its own.

    On CPU `BAND` nodes at a time; elsewhere at once, since a GPU has no such cache to stay in.
    """
    if nodes[0].device.type != "cpu" or nodes[0].numel() == 0:
        return nodes[0] + branch(*nodes)
    batch, dim, height, width = nodes[0].shape
    num_nodes = batch * height * width
    rows = [x.permute(0, 2, 3, 1).reshape(1, num_nodes, 1, x.shape[1]).permute(0, 3, 1, 2) for x in nodes]
    bands = [[x[:, :, first : first + BAND] for x in rows] for first in range(0, num_nodes, BAND)]
    parts = [band[0] + branch(*band) for band in bands]
    out = torch.cat(parts, 2) if len(parts) > 1 else parts[0]
    return out.permute(0, 2, 3, 1).view(batch, height, width, dim).permute(0, 3, 1, 2)
