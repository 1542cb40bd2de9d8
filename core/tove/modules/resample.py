"""Tokens of one grid on another: bilinear, antialiased where the grid shrinks.

Shapes: B batch, h x w a grid, D a token's width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["resample_tokens"]


def resample_tokens(
    tokens_BMD: Tensor, grid_in: tuple[int, int], grid_out: tuple[int, int]
) -> Tensor:
    """Resample row-major grid tokens: [B, h_in*w_in, D] to [B, h_out*w_out, D], antialiased."""
    if tuple(grid_in) == tuple(grid_out):
        return tokens_BMD
    map_BDhw = tokens_BMD.transpose(1, 2).unflatten(2, tuple(grid_in))
    shrinks = grid_out[0] < grid_in[0] or grid_out[1] < grid_in[1]
    if shrinks and map_BDhw.dtype != torch.float64:
        map_BDhw = map_BDhw.float()  # torch's antialiased kernels know no half precision on CPU
    map_BDhw = F.interpolate(
        map_BDhw, size=tuple(grid_out), mode="bilinear", antialias=shrinks, align_corners=False
    )
    return map_BDhw.flatten(2).transpose(1, 2).to(tokens_BMD.dtype)
