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
    none, for detachment and expert dropout are drawn alike on all.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise maps [B, C, H, W] by channel."""
        if not self.training or num_ranks() == 1:
            return super().forward(x_BCHW)
        wide_BCHW = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
        own = wide_BCHW.new_full((1,), wide_BCHW.numel() // wide_BCHW.shape[1])
        sums = sum_over_ranks(torch.cat([wide_BCHW.sum((0, 2, 3)), own]))
        mean_C, count = sums[:-1] / sums[-1], sums[-1]
        centred_BCHW = wide_BCHW - mean_C[:, None, None]
        # Two passes: E[x^2] - E[x]^2 loses its digits where the mean is large.
        variance_C = sum_over_ranks(centred_BCHW.square().sum((0, 2, 3))) / count
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
