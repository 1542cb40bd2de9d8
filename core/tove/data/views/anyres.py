"""LLaVA-NeXT's any-resolution views: the whole image, and tiles of it at about its own size.

    base     the image squashed to S x S
    tiles    the image resized into the grid (height, width) that keeps most of it, centred on
             black, cut into S x S tiles row by row

The order of the views and the padding are those of the release (Liu et al., 2024), as transformers'
LlavaNext has them. How encoded views become an image's tokens: `tove.modules.tiles`.

Shapes: V = 1 + r * c views of an image in r rows and c columns, S side of a view in pixels.
"""

import math
from collections.abc import Sequence

import torch
from PIL import Image

from tove.data.views.square import ImageViews, as_pixels
from tove.errors import ConfigError
from tove.modules.tiles import Size, best_grid, num_packed_tokens

__all__ = ["AnyResView"]


class AnyResView:
    """A base view and the tiles of the grid that fits an image best.

    Args:
        size: side S of a view.
        grids: rows and columns of tiles to choose from; the default is LLaVA-NeXT's.
        colour: of the padding. In the release it is black.

    Raises:
        ConfigError: a grid is not two whole numbers.
    """

    kind = "anyres"

    def __init__(
        self,
        size: int,
        grids: Sequence[Size] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)),
        colour: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        if not grids or any(len(g) != 2 or min(g) < 1 for g in grids):
            raise ConfigError(
                f"The grids of the view 'anyres' are {grids!r}; give rows and columns of tiles, "
                "such as [(1, 2), (2, 1), (2, 2)]."
            )
        self.size, self.colour = size, tuple(colour)
        self.grids = [tuple(grid) for grid in grids]
        self.name = f"{self.kind} {self.grids} {self.colour}"
        self.pinpoints: list[Size] = [(r * size, c * size) for r, c in grids]

    @property
    def max_views(self) -> int:
        """The most views of an image."""
        return 1 + max(h * w for h, w in self.pinpoints) // self.size**2

    def most_tokens(self, grid: Size) -> int:
        """Return the most tokens of an image: those of a grid that it fills."""
        h, w = grid
        return max(num_packed_tokens((r * h, c * w), (r, c), grid) for r, c in self.grids)

    def tiles(self, size: Size) -> Size:
        """Return the rows and columns of tiles of an image of that height and width."""
        height, width = best_grid(size, self.pinpoints)
        return height // self.size, width // self.size

    def __call__(self, image: Image.Image) -> ImageViews:
        """Make the views of an image."""
        size = image.height, image.width
        rows, columns = self.tiles(size)
        side, height, width = self.size, rows * self.size, columns * self.size
        scale_h, scale_w = height / size[0], width / size[1]
        if scale_w < scale_h:
            inner = width, min(math.ceil(size[0] * scale_w), height)
        else:
            inner = min(math.ceil(size[1] * scale_h), width), height
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas = Image.new("RGB", (width, height), self.colour)
        canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), (left, top))
        base = as_pixels(image.resize((side, side), Image.Resampling.BICUBIC))
        tiles_V3SS = (
            as_pixels(canvas).unflatten(2, (columns, side)).unflatten(1, (rows, side))  # 3 r S c S
        ).permute(1, 3, 0, 2, 4)
        right, bottom = left + inner[0], top + inner[1]
        content = [[0, 0, side, side]]
        for y in range(0, height, side):
            for x in range(0, width, side):
                box = left - x, top - y, right - x, bottom - y
                content.append([min(max(edge, 0), side) for edge in box])
        pixels_V3SS = torch.cat([base[None], tiles_V3SS.flatten(0, 1)])
        return ImageViews(pixels_V3SS, torch.tensor(content), size, (rows, columns))
