"""The trained stem of an expert that gives a low-level map: from its fine grid to CLIP's.

    s_0 = t_k                                            the map: depth, edges, normals, ...
    s_i = ReLU(BN(conv 3x3, stride 2 of s_{i-1}))        i = 1 .. n, widths H / 2^n .. H / 2
    W_k t_k + b_k  :=  conv 1x1 of s_n

A pixel of a map says little by itself, so one linear layer per pixel, averaged over a patch, would
keep the patch's mean value and lose its shape. Prismer (arXiv 2303.02506) therefore turns a map
into tokens with a small convolutional stem; the form is that of arXiv 2106.14881. The stem stands
where W_k t_k + b_k stands for every other encoder: GELU and the shared layer follow it unchanged,
so that the shared layer is still applied once, after the gated sum (see `tove.projector`).

n is the largest number of halvings that leaves no fewer cells than CLIP's grid has; what remains
is resampled by the projector. A map that is not twice as fine gets one convolution of stride 1.

Shapes: B batch, C channels of the map, h x w its grid, M = h * w, H hidden width.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["GlobalBatchNorm", "MapStem"]

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


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm over the global batch: of all ranks in training, whatever their device.

    Statistics of each rank's own part would make the loss depend on the number of ranks, and leave
    every rank with other running statistics, of which a checkpoint keeps one. torch's
    SyncBatchNorm does the same, but on accelerators only. An expert's stem runs on all ranks or on
    none, for detachment and expert dropout are drawn alike on all.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise maps [B, C, H, W] by channel."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x_BCHW)
        wide_BCHW = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
        own = wide_BCHW.new_full((1,), wide_BCHW.numel() // wide_BCHW.shape[1])
        sums = _sum_over_ranks(torch.cat([wide_BCHW.sum((0, 2, 3)), own]))
        mean_C, count = sums[:-1] / sums[-1], sums[-1]
        centred_BCHW = wide_BCHW - mean_C[:, None, None]
        # Two passes: E[x^2] - E[x]^2 loses its digits where the mean is large.
        variance_C = _sum_over_ranks(centred_BCHW.square().sum((0, 2, 3))) / count
        self._track(mean_C.detach(), (variance_C * count / (count - 1)).detach())
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        y_BCHW = centred_BCHW * scale_C[:, None, None] + self.bias[:, None, None]
        return y_BCHW.to(x_BCHW.dtype)

    @torch.no_grad()
    def _track(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """Move the running statistics, as torch's batch norm does."""
        assert self.running_mean is not None  # what `track_running_stats` promises
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance_C.to(self.running_var.dtype), self.momentum)


class _SumOverRanks(torch.autograd.Function):
    """A sum that every rank gets; its gradient is the sum of the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_ranks(x: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(x)
    return total
