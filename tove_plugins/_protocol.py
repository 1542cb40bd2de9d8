"""What an expert is: a Protocol, so that a plugin inherits nothing of ours.

Shapes: B batch, 3 x H x W the spec's image, N = h * w tokens in row-major order, D the width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tove_plugins.specs import ExpertSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Expert", "ExpertFactory"]


@runtime_checkable
class Expert(Protocol):
    """A frozen vision backbone; every `torch.nn.Module` with this `forward` is one.

    The core puts it in eval mode, moves it to its device and dtype and calls it under `no_grad`.
    """

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Turn normalised images [B, 3, H, W] into tokens [B, h*w, D], row-major, no class token.

        The tokens are on the images' device, in their dtype, finite, and a new tensor each call.
        """
        ...


class ExpertFactory(Protocol):
    """What `ExpertSpec.factory` names; a class with such a constructor is one too."""

    def __call__(self, *, spec: ExpertSpec, weights: Path | None, **options: object) -> nn.Module:
        """Build the expert of `spec`, with random weights where `weights` is None."""
        ...
