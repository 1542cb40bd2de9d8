"""The residual knowledge transfer (ToVE, arXiv 2504.00691) and its parameter-matched baseline.

    ResidualTransfer   t_fuse = v + lambda * MLP_t(z)          z: the gated mixture of experts
    MatchedMLP         t_fuse = v + W2 GELU(W1 t_clip + b1) + b2      no expert, as many parameters

With a zero-initialised last layer both start as plain CLIP: t_fuse = v at step 0.

Shapes: B batch, N tokens, D language width (d_lang), C CLIP width (d_clip).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.errors import ConfigError

__all__ = ["MatchedMLP", "ResidualTransfer"]


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class ResidualTransfer(nn.Module):
    """Add what the experts know to the projected CLIP tokens.

    Args:
        d_lang: width of the language model.
        hidden: hidden width of MLP_t; None is `d_lang`.
        scale: lambda; "learned" is a trained scalar that starts at 1, a number stays fixed.
        zero_init: start with MLP_t = 0, that is with plain CLIP.
    """

    def __init__(
        self,
        d_lang: int,
        hidden: int | None = None,
        scale: Literal["learned"] | float = "learned",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(scale, str) and scale != "learned":
            raise ConfigError(
                f"transfer.scale is {scale!r}, but it must be 'learned' or a number; "
                "correct it in the model's config."
            )
        self.inner = nn.Linear(d_lang, hidden or d_lang)
        self.outer = nn.Linear(hidden or d_lang, d_lang)
        self.scale = nn.Parameter(torch.ones(())) if scale == "learned" else float(scale)
        if zero_init:
            _zero(self.outer)

    def forward(self, v_BND: Tensor, z_BND: Tensor) -> Tensor:
        """Return t_fuse [B, N, D] from projected CLIP tokens v and the experts' mixture z."""
        return v_BND + self.scale * self.outer(F.gelu(self.inner(z_BND)))


class MatchedMLP(nn.Module):
    """The baseline's extra capacity: what the transfer adds, spent on CLIP's own tokens.

    Args:
        d_clip: width of CLIP's tokens.
        d_lang: width of the language model.
        num_parameters: trainable parameters to match; the hidden width is the one that comes
            closest to it.
        zero_init: start as plain CLIP.
    """

    def __init__(
        self, d_clip: int, d_lang: int, num_parameters: int, zero_init: bool = True
    ) -> None:
        super().__init__()
        hidden = max(1, round((num_parameters - d_lang) / (d_clip + d_lang + 1)))
        self.inner = nn.Linear(d_clip, hidden)
        self.outer = nn.Linear(hidden, d_lang)
        if zero_init:
            _zero(self.outer)

    def forward(self, v_BND: Tensor, t_clip_BNC: Tensor) -> Tensor:
        """Return t_fuse [B, N, D] from projected CLIP tokens v and the CLIP tokens themselves."""
        t_clip_BNC = t_clip_BNC.to(self.inner.weight.dtype)
        return v_BND + self.outer(F.gelu(self.inner(t_clip_BNC)))
