"""Spatial order: token (i, j) must lie where the image content of cell (i, j) lies.

Cells of a noise image are replaced, one at a time, and the tokens that move are located; a random
network shows it as a trained one does. The responses of all cells, laid over each other with the
changed cell in the middle, give the drift: how far from its cell the content is found on average.

Strided convolutions put token i at the start of cell i rather than at its middle, and so drift by
half a cell along both axes; a pyramid's coarse levels add to it. That is common in good backbones
and passes. A lost or an added token drifts by a whole cell along one axis.

Shapes: P changed cells, h x w the grid, N = h * w tokens, D width.
"""

import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import SEED, Subject, run_as_core

__all__: list[str] = []

Cell = tuple[int, int]
Region = tuple[slice, slice]

NUM_PROBES = (4, 3)  # a cell out of each of 4 x 3 parts of the image, then the other way round
NUM_ROUNDS = 3  # of other cells and noise, before a failure is told
MIN_AGREEMENT = 0.6
MAX_DRIFT = 0.9  # cells: strided convolutions give 0.5, pyramids 0.8, even kernels -0.5
MAX_SKEW = 0.6  # cells between the drifts along the two axes
MAX_STRETCH = (0.8, 0.05)  # cells, and of the grid's side, between the drifts of two halves
THRESHOLD = 0.25  # of the strongest response; weaker ones are the network's mixing
MAX_EXTRA_TOKENS = 5
WINDOW = 3  # cells around the changed one that the drift is taken over
BORDER = 0.03  # of the image's side, at least 2 pixels
UNSEEN = 1e-3  # of a cell's effect
BATCH = 4


@expert_check("built")
def check_spatial_order(subject: Subject) -> None:
    """Experts meet CLIP's tokens position by position; a flipped grid teaches noise.

    Cells of the image are changed one by one, and the tokens that move must lie there. A grid that
    is transposed, flipped, shifted by a class token or by a row, a channels-first map flattened
    as channels-last, an image cropped or padded before the network: each is told by its name.
    Half a cell of drift passes, for strided convolutions have it.

    Mend: Flatten a map by `.flatten(2).transpose(1, 2)`, drop class and register tokens from the
    front, and resize the whole image without cropping, padding or flipping.
    """
    rows, columns = subject.spec.tokens.grid
    if rows * columns < 4:
        raise SkipCheck("The grid is too small to tell an order.")
    expert, cells, moved = subject.fresh(), [], []
    for attempt in range(NUM_ROUNDS):
        base, other = (subject.images(1, seed=2 * attempt + k) for k in (0, 1))
        chosen = _choose(rows, columns, attempt)
        regions = [_cell(base, cell, (rows, columns)) for cell in chosen]
        cells += chosen
        moved.append(_differences(expert, base, other, regions))
        moved_PND = torch.cat(moved)
        if attempt == 0:
            _check_borders(expert, base, other, moved_PND, (rows, columns))
        fault = _fault(cells, _lengths(moved_PND, (rows, columns)))
        if fault is None:
            return
    fail(f"{fault} {_diagnosis(cells, moved_PND, (rows, columns))}")


def _choose(rows: int, columns: int, attempt: int) -> list[Cell]:
    """Choose cells that are spread over the grid; all of a small one."""
    parts = NUM_PROBES if attempt % 2 == 0 else NUM_PROBES[::-1]
    if rows * columns <= parts[0] * parts[1]:
        return [(row, column) for row in range(rows) for column in range(columns)]
    chance = random.Random(SEED + attempt)
    return [
        (
            int((i + chance.random()) / parts[0] * rows),
            int((j + chance.random()) / parts[1] * columns),
        )
        for i in range(parts[0])
        for j in range(parts[1])
    ]


def _cell(image: Tensor, cell: Cell, grid: Cell) -> Region:
    """Give the part of an image that a cell of the grid covers."""
    height, width = (
        slice(at * side // count, (at + 1) * side // count)
        for at, side, count in zip(cell, image.shape[2:], grid, strict=True)
    )
    return height, width


def _differences(expert: nn.Module, base: Tensor, other: Tensor, regions: list[Region]) -> Tensor:
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


def _lengths(moved_PND: Tensor, grid: Cell) -> Tensor:
    """Give how far every token moved, [P, h, w]."""
    lengths_PN: Tensor = moved_PND.norm(dim=-1)
    return lengths_PN.view(-1, *grid)


def _check_borders(
    expert: nn.Module, base: Tensor, other: Tensor, moved_PND: Tensor, grid: Cell
) -> None:
    """What a crop cuts off moves no token at all, in any network."""
    effect = float(moved_PND.norm(dim=-1).max())
    if effect <= 0:
        fail("Changing a cell of the image changes no token; the tokens do not see the image.")
    height, width = base.shape[2:]

    def unseen(bands: dict[str, Region]) -> set[str]:
        moved = _differences(expert, base, other, list(bands.values())).norm(dim=-1).amax(1)
        return {side for side, most in zip(bands, moved, strict=True) if most < UNSEEN * effect}

    thin = unseen(_bands(height, width, *(max(2, int(BORDER * side)) for side in (height, width))))
    pairs = (("top", "bottom"), ("left", "right"))
    cut = [side for pair in pairs if thin.issuperset(pair) for side in pair]
    if thin and not cut:  # up to a cell may be lost where patches do not divide the image
        cut = sorted(unseen(_bands(height, width, height // grid[0], width // grid[1])))
    if cut:
        sides = " and ".join(cut)
        fail(f"No token sees the {sides} of the image: it is cropped. The core has cut it already.")


def _bands(height: int, width: int, rows: int, columns: int) -> dict[str, Region]:
    every = slice(None)
    return {
        "top": (slice(0, rows), every),
        "bottom": (slice(height - rows, None), every),
        "left": (every, slice(0, columns)),
        "right": (every, slice(width - columns, None)),
    }


def _fault(cells: list[Cell], moved_Phw: Tensor, *, flipped: bool = False) -> str | None:
    """Say where the tokens that move lie; None if that is where they should.

    Args:
        cells: The changed cells.
        moved_Phw: How far every token moved with each.
        flipped: Take a drift for one of the other sign, as a flip undone behind the network gives.
    """
    agreement, drift = _agreement(cells, moved_Phw), _drift(cells, moved_Phw)
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


def _agreement(cells: list[Cell], moved_Phw: Tensor) -> float:
    """Give the share of cells whose token, or one beside it, moves most."""
    rows, columns = moved_Phw.shape[1:]
    slack = [math.ceil(side / 16) if side >= 4 else 0 for side in (rows, columns)]
    located = [divmod(int(moved_hw.argmax()), columns) for moved_hw in moved_Phw]
    hits = [
        all(abs(a - b) <= s for a, b, s in zip(cell, found, slack, strict=True))
        for cell, found in zip(cells, located, strict=True)
    ]
    return sum(hits) / len(hits)


def _drift(cells: list[Cell], moved_Phw: Tensor) -> tuple[float, float]:
    """Give how many rows and columns off their cell the tokens that move lie, on average."""
    rows, columns = moved_Phw.shape[1:]
    reach = min(WINDOW, rows // 2, columns // 2)
    level_P11 = moved_Phw.flatten(1).median(1).values[:, None, None]
    weight_Phw = (moved_Phw - level_P11).clamp(min=0)
    weight_Phw = weight_Phw / weight_Phw.amax((1, 2), keepdim=True).clamp(min=1e-30)
    padded = nn.functional.pad(weight_Phw, (reach,) * 4, value=torch.nan)
    size = 2 * reach + 1
    around = [
        one[row : row + size, column : column + size]
        for one, (row, column) in zip(padded, cells, strict=True)
    ]
    mean = torch.stack(around).nanmean(0).nan_to_num(0)
    mean = (mean - mean.median() - THRESHOLD * (mean.max() - mean.median())).clamp(min=0)
    offsets = torch.arange(-reach, reach + 1).float()
    total = mean.sum().clamp(min=1e-30)
    return float(mean.sum(1) @ offsets / total), float(mean.sum(0) @ offsets / total)


def _stretch(cells: list[Cell], moved_Phw: Tensor, axis: int) -> float:
    """Give how much more the half of the image that is further along an axis drifts along it."""
    far = torch.tensor([cell[axis] >= moved_Phw.shape[1 + axis] / 2 for cell in cells])
    if min(moved_Phw.shape[1:]) < 2 * WINDOW:
        return 0.0
    drifts = [
        _drift([c for c, is_in in zip(cells, half, strict=True) if is_in], moved_Phw[half])
        for half in (far, ~far)
    ]
    return drifts[0][axis] - drifts[1][axis]


def _mistakes(grid: Cell) -> Iterator[tuple[str, Tensor]]:
    """Give known mistakes, with the right position of the token that lies at each place."""
    right_hw = torch.arange(grid[0] * grid[1]).view(grid)
    yield "The grid is transposed: tokens must run row by row.", right_hw.T
    yield "The rows are flipped.", right_hw.flip(0)
    yield "The columns are flipped.", right_hw.flip(1)
    yield "The grid is turned by half.", right_hw.flip(0, 1)
    late, early = (right_hw.flatten().roll(by) for by in (1, -1))
    yield "Every token is one late: a class token is counted as a patch.", late
    yield "Every token is one early: the first patch was dropped.", early
    for by in range(2, min(MAX_EXTRA_TOKENS + 1, grid[1])):
        words = f"Every token is {by} late: class and register tokens are counted as patches."
        yield words, right_hw.flatten().roll(by)
    yield "Every token is one row late.", right_hw.roll(1, 0)
    yield "Every token is one row early.", right_hw.roll(-1, 0)


def _diagnosis(cells: list[Cell], moved_PND: Tensor, grid: Cell) -> str:
    """Say which known mistake, undone, sets the tokens right."""
    count, width = moved_PND.shape[1:]
    as_map = moved_PND.reshape(-1, width, count).transpose(1, 2)
    if _fault(cells, _lengths(as_map, grid)) is None:
        return "A channels-first map was reshaped; use .flatten(2).transpose(1, 2)."
    for sentence, right in _mistakes(grid):
        undone = moved_PND[:, right.flatten().argsort()]
        if _fault(cells, _lengths(undone, grid), flipped=True) is None:
            return sentence
    return (
        "Likely causes: the image is cropped, padded or moved before the network, or tokens are "
        "reordered and not put back."
    )
