"""The residual knowledge transfer (ToVE, arXiv 2504.00691).

    t_fuse = v + lambda * MLP_t(z)          z: what the experts give together

With a zero-initialised last layer it starts as plain CLIP: t_fuse = v at step 0.

Shapes: B batch, N tokens, D language width (d_lang), Z width of z.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.config.validation import Range

__all__ = ["ResidualTransfer"]


class ResidualTransfer(nn.Module):
    """Add what the experts know to the projected CLIP tokens.

    Args:
        d_lang: width of the language model.
        d_in: width of z; None is `d_lang`.
        hidden: hidden width of MLP_t; None is `d_lang`.
        scale: lambda; "learned" is a trained scalar that starts at 1, a number stays fixed.
        zero_init: start with MLP_t = 0, that is with plain CLIP.
    """

    def __init__(
        self,
        d_lang: int,
        hidden: Annotated[int, Range(1)] | None = None,
        scale: Literal["learned"] | float = "learned",
        zero_init: bool = True,
        d_in: int | None = None,
    ) -> None:
        super().__init__()
        self.inner = nn.Linear(d_in or d_lang, hidden or d_lang)
        self.outer = nn.Linear(hidden or d_lang, d_lang)
        self.scale = nn.Parameter(torch.ones(())) if scale == "learned" else float(scale)
        if zero_init:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, v_BND: Tensor, z_BNZ: Tensor) -> Tensor:
        """Return t_fuse [B, N, D] from projected CLIP tokens v and the experts' mixture z."""
        return v_BND + self.scale * self.outer(F.gelu(self.inner(z_BNZ)))
