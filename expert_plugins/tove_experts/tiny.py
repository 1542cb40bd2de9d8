"""The tiny world's experts: one small backbone, four sets of weights.

A convolutional stem (3 -> 24 -> 48 -> width, stride 2 each) to an 8x8 grid and a few transformer
blocks. The stem's kernels are 4x4, so that token (i, j) is centred on its own 8x8 pixels. Each
expert was trained on rendered scenes for its own task by `scripts/train_tiny_encoders.py`; only the
trunk is shipped, for the hub takes tokens, not answers.
Shape legend: B batch, N = 64 tokens, D width.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tove_plugins import ExpertSpec


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens [B, N, D] to tokens [B, N, D]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


class TinyExpert(nn.Module):
    """Images [B, 3, 64, 64], normalised -> tokens [B, 64, width], row-major, no class token.

    Args:
        spec: What the plugin promises; `width` must be its token width.
        weights: A safetensors file of this module's state dict, or None for random weights.
        width: Token width.
        depth: Number of transformer blocks.

    Raises:
        ValueError: `width` is not what the spec promises.
    """

    def __init__(
        self,
        spec: ExpertSpec | None = None,
        weights: Path | None = None,
        width: int = 64,
        depth: int = 3,
    ) -> None:
        super().__init__()
        if spec is not None and spec.tokens.width != width:
            raise ValueError(
                f"The expert {spec.name!r} promises tokens of width {spec.tokens.width}, "
                f"but was asked for width {width}. Leave `width` out of the config."
            )
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(24, 48, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(48, width, 4, stride=2, padding=1),
        )
        self.position = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, num_heads=4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        if weights is not None:
            from safetensors.torch import load_file

            self.load_state_dict(load_file(weights))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, 3, 64, 64] to tokens [B, 64, width]."""
        tokens = self.stem(images).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
