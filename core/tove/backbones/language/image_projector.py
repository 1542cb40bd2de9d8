"""LLaVA-1.5's projector `mlp2x_gelu`: from the encoder's tokens to the language model's.

    p(t) = W_2 . GELU(W_1 t + b_1) + b_2

Shapes: D_v width of the encoder's tokens, D width of the language model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.errors import ConfigError

__all__ = ["ImageProjector"]


class ImageProjector(nn.Module):
    """Two linear layers with an exact GELU in between.

    Args:
        width_in: D_v.
        width_out: D.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width_in, width_out)
        self.linear_2 = nn.Linear(width_out, width_out)

    @classmethod
    def of(cls, first: nn.Linear, second: nn.Linear) -> "ImageProjector":
        """Return the projector whose two layers there are already; they are shared, not copied.

        Raises:
            ConfigError: the first is not as wide as the second, as LLaVA's are.
        """
        if first.out_features != second.out_features:
            raise ConfigError(
                f"model.projector.hidden is {first.out_features}, but LLaVA's projector mlp2x_gelu "
                f"has the language model's width, {second.out_features}, between its layers; leave "
                "hidden out."
            )
        with torch.device("meta"):
            projector = cls(first.in_features, second.out_features)
        projector.linear_1, projector.linear_2 = first, second
        return projector

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens [..., D_v] to [..., D]."""
        return self.linear_2(F.gelu(self.linear_1(tokens)))
