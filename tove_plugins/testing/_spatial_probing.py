"""Changing parts of an image, and how far each token moves.

Shapes: P changed parts, h x w the grid, N = h * w tokens, D width.
"""

import torch
from torch import Tensor, nn

from tove_plugins.testing._subject import run_as_core

__all__ = ["BATCH", "Cell", "Region", "cell_region", "differences", "lengths"]

Cell = tuple[int, int]
Region = tuple[slice, slice]

BATCH = 4


def cell_region(image: Tensor, cell: Cell, grid: Cell) -> Region:
    """Give the part of an image that a cell of the grid covers."""
    height, width = (
        slice(at * side // count, (at + 1) * side // count)
        for at, side, count in zip(cell, image.shape[2:], grid, strict=True)
    )
    return height, width


def differences(expert: nn.Module, base: Tensor, other: Tensor, regions: list[Region]) -> Tensor:
    """Give how each region, replaced by the other image's, changes the tokens: [P, N, D]."""
    images = [base]
    for region in regions:
        changed = base.clone()
        changed[..., *region] = other[..., *region]
        images.append(changed)
    tokens = torch.cat(
        [run_as_core(expert, part) for part in torch.split(torch.cat(images), BATCH)]
    )
    return (tokens[1:] - tokens[:1]).detach().float().cpu()


def lengths(moved_PND: Tensor, grid: Cell) -> Tensor:
    """Give how far every token moved, [P, h, w]."""
    lengths_PN: Tensor = moved_PND.norm(dim=-1)
    return lengths_PN.view(-1, *grid)
