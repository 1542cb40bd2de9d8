"""Edges in eight directions, per cell of the image.

Shapes: B batch, 3 x H x W the spec's image, h x w its grid, D = 16 the token's width.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tove_plugins import ExpertSpec

NUM_DIRECTIONS = 8


class MyExpert(nn.Module):
    """Normalised images [B, 3, H, W] -> tokens [B, h * w, D], row by row.

    Args:
        spec: What the plugin says about it.
        weights: The file of its weights, found and its digest checked; None for random ones.
        spacing: Distance in pixels between the points that an edge is measured over.
    """

    def __init__(self, spec: ExpertSpec, weights: Path | None = None, spacing: int = 1) -> None:
        super().__init__()
        self.grid = spec.tokens.grid
        self.edges = nn.Conv2d(
            1,
            NUM_DIRECTIONS,
            3,
            padding=spacing,
            dilation=spacing,
            padding_mode="replicate",
            bias=False,
        )
        if weights is not None:
            self.load_state_dict(load_file(weights))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the mean and the largest edge of every cell, in each direction."""
        edges_BKHW = self.edges(images_BCHW.mean(dim=1, keepdim=True)).relu()
        mean_BKhw = F.adaptive_avg_pool2d(edges_BKHW, self.grid)
        peak_BKhw = F.adaptive_max_pool2d(edges_BKHW, self.grid)
        return torch.cat([mean_BKhw, peak_BKhw], dim=1).flatten(2).transpose(1, 2)
