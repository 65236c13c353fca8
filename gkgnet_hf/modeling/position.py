"""Position bias of the neighbour search: a fixed function of the grid, the width and the pooling ratio.

The search on an H×W grid adds `−(2/C) · P · (R P)ᵀ` to the squared cosine distance, where P is the 2-D sine-cosine
embedding and R resamples the *flattened* source index (Pyramid ViG, https://arxiv.org/abs/2206.00272, as its weights
were trained). `position_bias_plain` computes this as written. `position_bias` uses
sin a · sin b + cos a · cos b = cos(a − b): the bias of destination (y, x) and source m is a sum `rows[y, m] +
columns[x, m]` of two small tables, so that nothing of size N·M is stored or computed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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


def position_bias_plain(height: int, width: int, dim: int, ratio: int) -> Tensor:
    """`−(2/C) · P · (R P)ᵀ`, materialised: the oracle for `position_bias`, and what released files store.

    Returns:
        (height · width, (height // ratio) · (width // ratio)) float64.

    >>> position_bias_plain(4, 4, 8, ratio=2).shape
    torch.Size([16, 4])
    """
    embedding = sincos_embedding(height, width, dim)
    sources = (height // ratio) * (width // ratio)
    resampled = F.interpolate(
        embedding.T[None, :, None], size=(1, sources), mode="bicubic", align_corners=False
    )  # (1, C, 1, M)
    return -2 / dim * embedding @ resampled[0, :, 0]


def position_bias(x: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """The position bias of a feature map as two tables: bias of destination (y, x) and source m is their sum.

    Args:
        x: (B, C, H, W); only its shape, dtype and device are used. C divisible by 4.
        ratio: pooling ratio r of the sources; there are M = ⌊H/r⌋·⌊W/r⌋ of them.

    Returns:
        rows (H, M) and columns (W, M), float64 for a float64 `x`, else float32.

    >>> rows, columns = position_bias(torch.zeros(1, 8, 4, 6), ratio=2)
    >>> torch.allclose((rows[:, None] + columns).flatten(0, 1), position_bias_plain(4, 6, 8, 2).float(), atol=1e-6)
    True
    """
    height, width = x.shape[-2], x.shape[-1]
    # Angles need float64: at x = 144 their float32 error alone would be 1e-5. Metal has no float64.
    device = torch.device("cpu") if x.device.type == "mps" else x.device
    taps, weights = _bicubic_taps(height * width, (height // ratio) * (width // ratio), device)  # (M, 4) each
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    weights = weights.to(dtype)
    y = taps.div(width, rounding_mode="floor")
    rows = (_axis_bias(height, x.shape[1], device).to(dtype)[:, y] * weights).sum(2)
    columns = (_axis_bias(width, x.shape[1], device).to(dtype)[:, taps - y * width] * weights).sum(2)
    return rows.to(x.device), columns.to(x.device)


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
