"""Batch norm over the global batch.

Shapes: B batch, C channels, H x W a map.
"""

import torch
from torch import Tensor, nn

from tove.modules.collectives import num_ranks, sum_over_ranks

__all__ = ["GlobalBatchNorm"]


class GlobalBatchNorm(nn.BatchNorm2d):
    """Batch norm over the global batch: of all ranks in training, whatever their device.

    Statistics of each rank's own part would make the loss depend on the number of ranks, and leave
    every rank with other running statistics, of which a checkpoint keeps one. torch's
    SyncBatchNorm does the same, but on accelerators only. An expert's stem runs on all ranks or on
    none, for detachment and expert dropout are drawn alike on all; one whose batch has no image
    gives an empty one, and a batch without any moves nothing.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise maps [B, C, H, W] by channel."""
        if num_ranks() == 1 and not x_BCHW.numel():
            return x_BCHW * self.weight[:, None, None] + self.bias[:, None, None]
        if not self.training or num_ranks() == 1:
            return super().forward(x_BCHW)
        wide_BCHW = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
        own = wide_BCHW.new_full((1,), wide_BCHW.numel() // wide_BCHW.shape[1])
        sums = sum_over_ranks(torch.cat([wide_BCHW.sum((0, 2, 3)), own]))
        count = sums[-1]
        mean_C = sums[:-1] / count.clamp(min=1)
        centred_BCHW = wide_BCHW - mean_C[:, None, None]
        # Two passes: E[x^2] - E[x]^2 loses its digits where the mean is large.
        variance_C = sum_over_ranks(centred_BCHW.square().sum((0, 2, 3))) / count.clamp(min=1)
        unbiased_C = variance_C * count / (count - 1).clamp(min=1)
        self._track(mean_C.detach(), unbiased_C.detach(), moved=count.detach() > 0)
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        y_BCHW = centred_BCHW * scale_C[:, None, None] + self.bias[:, None, None]
        return y_BCHW.to(x_BCHW.dtype)

    @torch.no_grad()
    def _track(self, mean_C: Tensor, variance_C: Tensor, moved: Tensor) -> None:
        """Move the running statistics, as torch's batch norm does."""
        assert self.running_mean is not None  # what `track_running_stats` promises
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(moved)
        for running_C, now_C in ((self.running_mean, mean_C), (self.running_var, variance_C)):
            share = (moved * self.momentum).to(running_C.dtype)
            running_C.lerp_(now_C.to(running_C.dtype), share)
