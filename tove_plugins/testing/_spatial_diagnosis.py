"""What was done to tokens that are not in their places: known mistakes are undone, one by one.

Shapes: P changed cells, h x w the grid, N = h * w tokens, D width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tove_plugins.testing._spatial_faults import find_fault, share_of_cells
from tove_plugins.testing._spatial_probing import Cell, lengths

__all__ = ["known_mistake"]

MAX_EXTRA_TOKENS = 5
ALIKE = 1e-3  # of the tokens' movement
CLEARLY = 0.03  # of the strongest movement: by this a later mistake must fit better


def known_mistake(cells: list[Cell], moved_PND: Tensor, grid: Cell) -> str:
    """Say which known mistake, undone, sets the tokens right; "" if none does."""
    count, width = moved_PND.shape[1:]
    spread = float((moved_PND - moved_PND.mean(1, keepdim=True)).norm())
    if spread < ALIKE * float(moved_PND.norm()):
        return "All tokens move alike: they are pooled over the image and repeated for every cell."
    as_map = moved_PND.reshape(-1, width, count).transpose(1, 2)
    if find_fault(cells, lengths(as_map, grid)) is None:
        return "A channels-first map was reshaped; use .flatten(2).transpose(1, 2)."
    best, most = "", -1.0
    for sentence, right in _mistakes(grid):
        undone = lengths(moved_PND[:, right.flatten().argsort()], grid)
        if find_fault(cells, undone, flipped=True) is not None:
            continue
        # A column late and a class token differ in the cells at the border alone.
        in_place = share_of_cells(cells, undone)
        if in_place > most + CLEARLY:
            best, most = sentence, in_place
    return best


def _mistakes(grid: Cell) -> Iterator[tuple[str, Tensor]]:
    """Give known mistakes, with the right position of the token that lies at each place."""
    right_hw = torch.arange(grid[0] * grid[1]).view(grid)
    yield "The grid is transposed: tokens must run row by row.", right_hw.T
    yield "The rows are flipped.", right_hw.flip(0)
    yield "The columns are flipped.", right_hw.flip(1)
    yield "The grid is turned by half.", right_hw.flip(0, 1)
    yield "The grid is turned by 90 degrees, counterclockwise.", right_hw.rot90(1)
    yield "The grid is turned by 90 degrees, clockwise.", right_hw.rot90(-1)
    late, early = (right_hw.flatten().roll(by) for by in (1, -1))
    yield "Every token is one late: a class token is counted as a patch.", late
    yield "Every token is one early: the first patch was dropped.", early
    for by in range(2, min(MAX_EXTRA_TOKENS + 1, grid[1])):
        words = f"Every token is {by} late: class and register tokens are counted as patches."
        yield words, right_hw.flatten().roll(by)
        words = (
            f"Every token is {by} early: the first {by} patches were dropped. Class and register "
            "tokens stand at the end."
        )
        yield words, right_hw.flatten().roll(-by)
    for axis, line in enumerate(("row", "column")):
        yield f"Every token is one {line} late.", right_hw.roll(1, axis)
        yield f"Every token is one {line} early.", right_hw.roll(-1, axis)
