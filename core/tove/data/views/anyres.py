"""LLaVA-NeXT's any-resolution views: the whole image, and tiles of it at about its own size.

    base     the image squashed to S x S
    tiles    the image resized into the grid (height, width) that keeps most of it, centred on
             black, cut into S x S tiles row by row
    tokens   [base; tiles put together again, rows of padding cut, a newline token after each row]

The order of the views, the choice of a grid, the padding and what is cut of it after encoding are
those of the release (Liu et al., LLaVA-NeXT, 2024), as transformers' LlavaNext has them.

Shapes: V = 1 + r * c views of an image in r rows and c columns, S side of a view in pixels,
N = h * w tokens of a view, D width, T tokens of an image.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tove.data.views.square import ImageViews, as_pixels
from tove.errors import ConfigError

__all__ = [
    "AnyResView",
    "best_grid",
    "num_packed_tokens",
    "pack_images",
    "pack_views",
    "uncut",
]

Size = tuple[int, int]


def best_grid(size: Size, grids: Sequence[Size]) -> Size:
    """Choose the grid that keeps most of an image's pixels, and of those the one least empty.

    Args:
        size: height and width of the image.
        grids: heights and widths to choose from, in pixels.
    """
    height, width = size

    def worth(grid: Size) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        kept = min(int(width * scale) * int(height * scale), height * width)
        return kept, kept - grid[0] * grid[1]

    return max(grids, key=worth)


def uncut(size: Size, tokens: Size) -> tuple[slice, slice]:
    """Return the rows and columns of tokens that are left once padding is cut.

    Args:
        size: height and width of the image.
        tokens: rows and columns of the tokens of all its tiles.
    """
    (height, width), (rows, columns) = size, tokens
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(padding, rows - padding), slice(0, columns)
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(0, rows), slice(padding, columns - padding)


def num_packed_tokens(size: Size, tiles: Size, grid: Size) -> int:
    """Count the tokens T of an image with its newlines.

    Args:
        size: height and width of the image.
        tiles: rows and columns of its tiles.
        grid: rows h and columns w of a view's tokens.
    """
    rows, columns = uncut(size, (tiles[0] * grid[0], tiles[1] * grid[1]))
    height = rows.stop - rows.start
    return grid[0] * grid[1] + height * (columns.stop - columns.start + 1)


def pack_views(
    tokens_VND: Tensor, newline_D: Tensor | None, size: Size, tiles: Size, grid: Size
) -> Tensor:
    """Put the encoded views of one image together.

    Args:
        tokens_VND: base view first.
        newline_D: learned token after each row; None is none.
        size: height and width of the image.
        tiles: rows and columns of its tiles.
        grid: rows h and columns w of a view's tokens.

    Returns:
        tokens_TD.
    """
    base_ND, tiles_VND = tokens_VND[0], tokens_VND[1:]
    whole_RCD = (
        tiles_VND.unflatten(0, tiles)  # r c N D
        .unflatten(2, grid)  # r c h w D
        .transpose(1, 2)  # r h c w D
        .flatten(2, 3)
        .flatten(0, 1)
    )
    whole_RCD = whole_RCD[uncut(size, (tiles[0] * grid[0], tiles[1] * grid[1]))]
    if newline_D is not None:
        ends_R1D = newline_D.to(whole_RCD.dtype).expand(len(whole_RCD), 1, -1)
        whole_RCD = torch.cat([whole_RCD, ends_R1D], 1)
    return torch.cat([base_ND, whole_RCD.flatten(0, 1)])


def pack_images(
    tokens_VND: Tensor,
    samples: Sequence[Mapping[str, Any]],
    grid: Size,
    newline_D: Tensor | None = None,
) -> list[Tensor] | Tensor:
    """Give a batch's encoded views as the tokens of its images, whatever their view.

    Args:
        tokens_VND: all views of all samples, in the order of `conversation_collate`.
        samples: B samples, with the `views` of `LlavaConversations`.
        grid: rows h and columns w of a view's tokens.
        newline_D: learned token after each row of tiles; None is none.

    Returns:
        tokens_TD of each image; [0, N, D] where there is none, with whose gradient, which is zero,
        projector and newline take part in the backward pass all the same.
    """
    images = [view for sample in samples for view in sample["views"]]
    if not images:
        return tokens_VND if newline_D is None else tokens_VND + newline_D.to(tokens_VND.dtype)
    packed = []
    for view, own_VND in zip(
        images, tokens_VND.split([view["num_views"] for view in images]), strict=True
    ):
        if view["tiles"] is None:
            packed.append(own_VND.flatten(0, 1))
        else:
            packed.append(pack_views(own_VND, newline_D, view["size"], view["tiles"], grid))
    return packed


class AnyResView:
    """A base view and the tiles of the grid that fits an image best.

    Args:
        size: side S of a view.
        grids: rows and columns of tiles to choose from; the default is LLaVA-NeXT's.
        colour: of the padding. In the release it is black.

    Raises:
        ConfigError: a grid is not two whole numbers.
    """

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
        self.min_side: int | None = None  # the grid depends on the image's own size
        self.pinpoints: list[Size] = [(r * size, c * size) for r, c in grids]

    @property
    def max_views(self) -> int:
        """The most views of an image."""
        return 1 + max(h * w for h, w in self.pinpoints) // self.size**2

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
