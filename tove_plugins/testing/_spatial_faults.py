"""Where the tokens that move lie: at their cell, or where.

Shapes: P changed cells, h x w the grid.
"""

import math

import torch
from torch import Tensor, nn

from tove_plugins.testing._spatial_probing import Cell

__all__ = ["find_fault", "is_diffuse", "share_of_cells"]

MIN_AGREEMENT = 0.6
MAX_DRIFT = 0.9  # cells: strided convolutions give 0.5, pyramids 0.8, even kernels -0.5
MAX_SKEW = 0.6  # cells between the drifts along the two axes
MAX_STRETCH = (0.8, 0.05)  # cells, and of the grid's side, between the drifts of two halves
MIN_STRETCHED = 4  # rows or columns
THRESHOLD = 0.25  # of the strongest response; weaker ones are the network's mixing
WINDOW = 3  # cells around the changed one that the drift is taken over


def find_fault(cells: list[Cell], moved_Phw: Tensor, *, flipped: bool = False) -> str | None:
    """Say where the tokens that move lie; None if that is where they should.

    Args:
        cells: The changed cells.
        moved_Phw: How far every token moved with each.
        flipped: Take a drift for one of the other sign, as a flip undone behind the network gives.
    """
    agreement = _share_in_place(cells, moved_Phw)
    drift = _drift(cells, moved_Phw, (min(WINDOW, *(n // 2 for n in moved_Phw.shape[1:])),) * 2)
    stretch = [_stretch(cells, moved_Phw, axis) for axis in (0, 1)]
    limits = [max(MAX_STRETCH[0], MAX_STRETCH[1] * side) for side in moved_Phw.shape[1:]]
    stretched = any(abs(s) >= limit for s, limit in zip(stretch, limits, strict=True))
    if flipped:
        drift = (abs(drift[0]), abs(drift[1]))
    if (
        agreement >= MIN_AGREEMENT
        and all(abs(along) < MAX_DRIFT for along in drift)
        and abs(drift[0] - drift[1]) < MAX_SKEW
        and not stretched
    ):
        return None
    sentence = (
        f"Of {len(cells)} changed image cells {agreement:.0%} move a token at or beside that cell; "
        f"the tokens lie ({drift[0]:+.1f}, {drift[1]:+.1f}) rows and columns off."
    )
    if stretched:
        sentence += f" The image's halves differ in that by ({stretch[0]:+.1f}, {stretch[1]:+.1f})."
    return sentence


def _slack(side: int) -> int:
    """Give how many cells off a token may lie in a grid of so many rows or columns."""
    return math.ceil(side / 16) if side >= 4 else 0


def _share_in_place(cells: list[Cell], moved_Phw: Tensor) -> float:
    """Give the share of cells whose token, or one beside it, moves most."""
    rows, columns = moved_Phw.shape[1:]
    slack = [_slack(side) for side in (rows, columns)]
    located = [divmod(int(moved_hw.argmax()), columns) for moved_hw in moved_Phw]
    hits = [
        all(abs(a - b) <= s for a, b, s in zip(cell, found, slack, strict=True))
        for cell, found in zip(cells, located, strict=True)
    ]
    return sum(hits) / len(hits)


def share_of_cells(cells: list[Cell], moved_Phw: Tensor) -> float:
    """Give how much the tokens of the changed cells move, of what moves most."""
    most_P = moved_Phw.flatten(1).amax(1).clamp(min=1e-30)
    own_P = torch.stack([one[cell] for one, cell in zip(moved_Phw, cells, strict=True)])
    return float((own_P / most_P).mean())


def _drift(cells: list[Cell], moved_Phw: Tensor, reach: tuple[int, int]) -> tuple[float, float]:
    """Give how many rows and columns off their cell the tokens that move lie, on average."""
    level_P11 = moved_Phw.flatten(1).median(1).values[:, None, None]
    weight_Phw = (moved_Phw - level_P11).clamp(min=0)
    weight_Phw = weight_Phw / weight_Phw.amax((1, 2), keepdim=True).clamp(min=1e-30)
    padded = nn.functional.pad(
        weight_Phw, (reach[1], reach[1], reach[0], reach[0]), value=torch.nan
    )
    around = [
        one[row : row + 2 * reach[0] + 1, column : column + 2 * reach[1] + 1]
        for one, (row, column) in zip(padded, cells, strict=True)
    ]
    mean = torch.stack(around).nanmean(0).nan_to_num(0)
    mean = (mean - mean.median() - THRESHOLD * (mean.max() - mean.median())).clamp(min=0)
    total = mean.sum().clamp(min=1e-30)
    down, right = (torch.arange(-along, along + 1).float() for along in reach)
    return float(mean.sum(1) @ down / total), float(mean.sum(0) @ right / total)


def _stretch(cells: list[Cell], moved_Phw: Tensor, axis: int) -> float:
    """Give how much more the half of the image that is further along an axis drifts along it.

    Around a cell, a short axis has few tokens on one side and none on the other, which would count
    as drift; there the window is narrower, and below 4 rows or columns there is none.
    """
    sides = moved_Phw.shape[1:]
    if sides[axis] < MIN_STRETCHED:
        return 0.0
    far = torch.tensor([cell[axis] >= sides[axis] / 2 for cell in cells])
    reach = [min(WINDOW, side // 2) for side in sides]
    if sides[axis] < 2 * WINDOW:
        reach[axis] = sides[axis] // 2 - 1
    drifts = [
        _drift(
            [c for c, is_in in zip(cells, half, strict=True) if is_in],
            moved_Phw[half],
            (reach[0], reach[1]),
        )
        for half in (far, ~far)
    ]
    return drifts[0][axis] - drifts[1][axis]


def is_diffuse(moved_Phw: Tensor) -> bool:
    """Tell whether a changed cell moves many tokens about as much as the one that moves most.

    Either as many as `_share_in_place` allows do so beyond what all move, or a quarter of all. (Of
    three times three that a repeated token fills, the first is not beside its last cell.)
    """
    moved_PN = moved_Phw.flatten(1)
    beyond_PN = moved_PN - moved_PN.median(1, keepdim=True).values
    strong, beyond = (
        float((one_PN > 0.5 * one_PN.amax(1, keepdim=True)).sum(1).median())
        for one_PN in (moved_PN, beyond_PN)
    )
    rows, columns = moved_Phw.shape[1:]
    allowed = (2 * _slack(rows) + 1) * (2 * _slack(columns) + 1)
    return beyond > max(allowed - 1, 1) or strong > max(allowed, rows * columns / 4)
