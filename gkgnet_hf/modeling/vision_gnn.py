"""Pyramid Vision GNN: the patch nodes of GKGNet.

Papers:
* Vision GNN: An Image is Worth Graph of Nodes, https://arxiv.org/abs/2206.00272 (one group: Pyramid ViG)
* GKGNet: Group K-Nearest Neighbor based Graph Convolutional Network for Multi-Label Image Recognition,
  https://arxiv.org/abs/2308.14378 (several groups)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .layers import ConvNorm, FeedForward, PatchGroupKGCN, Stem
from .position import position_bias


class Block(nn.Module):
    """Patch-level Group KGCN, then feed-forward (paper eq. 2); arguments as theirs."""

    def __init__(self, dim: int, mlp_ratio: int = 4, drop_path: float = 0.0, device=None, dtype=None, **graph):
        dd = {"device": device, "dtype": dtype}
        super().__init__()
        self.graph = PatchGroupKGCN(dim, drop_path=drop_path, **graph, **dd)
        self.ffn = FeedForward(dim, mlp_ratio, drop_path=drop_path, **dd)

    def forward(self, x: Tensor, bias: tuple[Tensor, Tensor] | None) -> Tensor:
        return self.ffn(self.graph(x, bias))


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
        bias = position_bias(x, self.pool_ratio) if self.use_position_bias else None
        for block in self.blocks:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, bias, use_reentrant=False)
            else:
                x = block(x, bias)
        return x


class PyramidVisionGNN(nn.Module):
    """Patch nodes in four stages of graph blocks.

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
