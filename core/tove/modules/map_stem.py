"""The trained stem of an expert that gives a low-level map: from its fine grid to CLIP's.

    s_0 = t_k                                            the map: depth, edges, normals, ...
    s_i = ReLU(BN(conv 3x3, stride 2 of s_{i-1}))        i = 1 .. n, widths H / 2^n .. H / 2
    W_k t_k + b_k  :=  conv 1x1 of s_n

A pixel of a map says little by itself, so one linear layer per pixel, averaged over a patch, would
keep the patch's mean value and lose its shape. Prismer (arXiv 2303.02506) therefore turns a map
into tokens with a small convolutional stem; the form is that of arXiv 2106.14881. The stem stands
where W_k t_k + b_k stands for every other encoder: GELU and the shared layer follow it unchanged,
so that the shared layer is still applied once, after the gated sum (see `projector`).

n is the largest number of halvings that leaves no fewer cells than CLIP's grid has; what remains
is resampled by the projector. A map that is not twice as fine gets one convolution of stride 1.

Shapes: B batch, C channels of the map, h x w its grid, M = h * w, H hidden width.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from tove.modules.batch_norm import GlobalBatchNorm

__all__ = ["MapStem"]

_MIN_WIDTH = 8


class MapStem(nn.Module):
    """Strided convolutions over a map.

    Args:
        channels: of the map.
        grid_in: of the map, (rows, columns).
        grid_out: CLIP's, (rows, columns).
        hidden: width of what the stem gives.

    Attributes:
        grid: of what the stem gives, at least `grid_out` where the map is.
    """

    def __init__(
        self, channels: int, grid_in: tuple[int, int], grid_out: tuple[int, int], hidden: int
    ) -> None:
        super().__init__()
        finer = min(grid_in[0] / grid_out[0], grid_in[1] / grid_out[1])
        halvings = max(0, math.floor(math.log2(finer)))
        self.grid_in = grid_in
        self.grid = (math.ceil(grid_in[0] / 2**halvings), math.ceil(grid_in[1] / 2**halvings))
        num_stages, stride = max(1, halvings), 2 if halvings else 1
        widths = [max(_MIN_WIDTH, hidden >> (num_stages - i)) for i in range(num_stages)]
        self.stages = nn.Sequential(
            *(_stage(before, after, stride) for before, after in pairwise([channels, *widths]))
        )
        self.out = nn.Conv2d(widths[-1], hidden, 1)

    def forward(self, tokens_BMC: Tensor) -> Tensor:
        """Give what precedes the GELU, [B, M', H] on `self.grid`, of a map [B, M, C]."""
        map_BChw = tokens_BMC.to(self.out.weight.dtype).transpose(1, 2).unflatten(2, self.grid_in)
        return self.out(self.stages(map_BChw)).flatten(2).transpose(1, 2)


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        GlobalBatchNorm(channels_out),
        nn.ReLU(inplace=True),
    )
