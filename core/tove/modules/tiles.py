"""Tiles of an image of any resolution: which grid of them, and their tokens as one image's.

    tokens = [base view; tiles put together again, rows of padding cut, a newline after each row]

The choice of a grid and what is cut after encoding are those of LLaVA-NeXT's release (Liu et al.,
2024), as transformers' LlavaNext has them.

Shapes: V = 1 + r * c views of an image in r rows and c columns of tiles, base view first,
N = h * w tokens of a view, D width, T tokens of an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Size",
    "best_grid",
    "num_packed_tokens",
    "pack_images",
    "pack_views",
    "uncut",
]

Size = tuple[int, int]
"""Height and width, or rows and columns."""


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
        tokens_VND: all views of all samples, in the order of `tove_collate`. Where they are not
            one for each cell of the grid (resampled, or several encoders' behind each other), they
            are taken as they are: nothing is cut, no newline added.
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
        if view["tiles"] is None or tokens_VND.shape[1] != grid[0] * grid[1]:
            packed.append(own_VND.flatten(0, 1))
        else:
            packed.append(pack_views(own_VND, newline_D, view["size"], view["tiles"], grid))
    return packed
