"""From the shared view to what one network expects: resize, scale, normalise, on the device.

    x = (resize(image) * (high - low) + low - mean) / std

Every network starts from the SAME geometric view of an image, so that token (i, j) is the same
place for all of them; only the resolution and the statistics differ.

Shapes: B batch, C = 3 channels, H x W the shared view, h x w the network's own input size.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.errors import ConfigError

__all__ = ["Preprocess", "Resize", "keep_dtype", "to_unit_range"]

Resize = Literal["float32", "uint8"]
"""Numbers that an image is resized in; those of uint8 are rounded twice, to 1/255 each time."""


def to_unit_range(images_BCHW: Tensor) -> Tensor:
    """Turn uint8 images into float32 in [0, 1]; floating images pass through unchanged."""
    if images_BCHW.dtype == torch.uint8:
        return images_BCHW.float().div_(255)
    return images_BCHW


def keep_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make a module's `_apply` function move tensors to a device but leave their dtype alone."""

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move


class Preprocess(nn.Module):
    """Resize to the network's input size and normalise with its statistics.

    Args:
        size: height and width of the network's input, in pixels.
        mean: of each channel, in units of `value_range`.
        std: of each channel, in units of `value_range`.
        value_range: what black and white are before normalisation, such as (0, 255).
        interpolation: `bicubic` or `bilinear`, both antialiased.
        resize: see `Resize`; "uint8" takes images of 8 bits, and the CPU.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        value_range: tuple[float, float] = (0.0, 1.0),
        interpolation: str = "bicubic",
        resize: Resize = "float32",
    ) -> None:
        super().__init__()
        self.size = (int(size[0]), int(size[1]))
        self.low, self.high = value_range
        self.interpolation, self.resize = interpolation, resize
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Preprocess":
        """Keep the statistics in float32 when the model is cast: they are not weights."""
        return super()._apply(keep_dtype(fn), recurse)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Map images in [0, 1], [B, 3, H, W], to the network's input, [B, 3, h, w]."""
        x_BCHW = images_BCHW
        if x_BCHW.shape[-2:] != self.size:
            x_BCHW = self._resized(x_BCHW)
        mean, std = self.mean.to(x_BCHW.dtype), self.std.to(x_BCHW.dtype)
        if (self.low, self.high) != (0, 1):
            x_BCHW = x_BCHW * (self.high - self.low) + self.low
        return (x_BCHW - mean).div_(std)

    def _resized(self, images_BCHW: Tensor) -> Tensor:
        x_BCHW = images_BCHW.float()
        options: Any = {"size": self.size, "mode": self.interpolation, "antialias": True}
        if self.resize == "float32":
            x_BCHW = F.interpolate(x_BCHW, **options)
            # A bicubic kernel overshoots at edges; pixels stay pixels, as they do in Pillow.
            return x_BCHW.clamp_(0, 1)
        if x_BCHW.device.type != "cpu":
            raise ConfigError(
                f"An expert's resize='uint8' is for the CPU alone, and its images are on "
                f"{x_BCHW.device}, where it would give other tokens; take it out of model.experts."
            )
        pixels_BCHW = x_BCHW.mul(255).round_().to(torch.uint8)
        return F.interpolate(pixels_BCHW, **options).float().div_(255)
