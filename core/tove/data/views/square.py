"""One square view of an image: its central square, or all of it on a square canvas.

LLaVA-1.5 reads images in stage 1 as CLIP's processor makes them (central square), in stage 2 padded
to a square at their own size and then resized (arXiv 2310.03744, its `expand2square`).

Shapes: V views of an image, S side of a view in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["CLIP_MEAN_COLOUR", "CropView", "ImageViews", "PadView", "as_pixels", "content_mask"]

CLIP_MEAN_COLOUR = (122, 116, 104)


@dataclass(frozen=True, slots=True)
class ImageViews:
    """The views of one image.

    Attributes:
        pixels_V3SS: uint8.
        content_V4: where each view shows the image and no padding: left, top, right, bottom in
            pixels of the view, right and bottom exclusive; int64.
        size: height and width of the image in pixels.
        tiles: rows and columns of tiles after the base view; None where there is the one view.
    """

    pixels_V3SS: Tensor
    content_V4: Tensor
    size: tuple[int, int]
    tiles: tuple[int, int] | None = None


def content_mask(content_V4: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """Tell the tokens that see some of the image from those that see padding alone.

    Args:
        content_V4: see `ImageViews`.
        side: S of the views that the boxes are measured in.
        grid: rows h and columns w of the tokens.

    Returns:
        bool [V, h * w], on the device of the boxes.
    """
    left_V, top_V, right_V, bottom_V = content_V4.unbind(-1)
    inside = []
    for cells, low_V, high_V in ((grid[0], top_V, bottom_V), (grid[1], left_V, right_V)):
        cell = torch.arange(cells, device=content_V4.device)  # cell i: [i, i + 1) * side / cells
        inside.append(
            (low_V[:, None] * cells < (cell + 1) * side) & (high_V[:, None] * cells > cell * side)
        )
    rows_Vh, columns_Vw = inside
    return (rows_Vh[:, :, None] & columns_Vw[:, None, :]).flatten(1)


def as_pixels(image: Image.Image) -> Tensor:
    """Turn an RGB image into uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class CropView:
    """The central square, as CLIP's processor makes it: resized first, then cropped.

    Args:
        size: side S in pixels.
    """

    kind = "crop"

    def __init__(self, size: int) -> None:
        self.size, self.name = size, self.kind

    def most_tokens(self, grid: tuple[int, int]) -> int:
        """Return the tokens of an image."""
        return grid[0] * grid[1]

    def __call__(self, image: Image.Image) -> ImageViews:
        """Return the one view; all of it shows the image."""
        side, shorter = self.size, min(image.size)
        width, height = (int(side * edge / shorter) for edge in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - side) // 2, (height - side) // 2
        square = resized.crop((left, top, left + side, top + side))
        content_14 = torch.tensor([[0, 0, side, side]])
        return ImageViews(as_pixels(square)[None], content_14, (image.height, image.width))


class PadView:
    """All of an image, centred on a square of one colour.

    Args:
        size: side S in pixels.
        colour: of the padding; LLaVA takes the mean pixel of the network.
    """

    kind = "pad"

    def __init__(self, size: int, colour: tuple[int, int, int] = CLIP_MEAN_COLOUR) -> None:
        self.size, self.colour = size, tuple(colour)
        self.name = f"{self.kind} {self.colour}"

    def most_tokens(self, grid: tuple[int, int]) -> int:
        """Return the tokens of an image."""
        return grid[0] * grid[1]

    def __call__(self, image: Image.Image) -> ImageViews:
        """Return the one view."""
        width, height = image.size
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        square = image
        if width != height:
            square = Image.new("RGB", (side, side), self.colour)
            square.paste(image, (left, top))
        pixels = as_pixels(square.resize((self.size, self.size), Image.Resampling.BICUBIC))
        first = [x * self.size // side for x in (left, top)]
        last = [-(-x * self.size // side) for x in (left + width, top + height)]  # rounded up
        content = first + last
        return ImageViews(pixels[None], torch.tensor([content]), (height, width))
