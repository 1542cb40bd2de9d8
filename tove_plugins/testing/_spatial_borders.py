"""The image's borders: whether any token sees them, and whether one of theirs does.

Shapes: P changed bands, h x w the grid, N = h * w tokens, D width, S rows or columns of tokens.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from tove_plugins.testing._registry import fail
from tove_plugins.testing._spatial_probing import Cell, Region, differences, lengths

__all__ = ["check_borders", "lost_border"]

SIDES = ("top", "bottom"), ("left", "right")
BORDER = 0.03  # of the image's side, at least 2 pixels
UNSEEN = 1e-3  # of a cell's effect
EQUAL = 1e-5  # of the largest change: interpolation rounds
MIN_SIDE = 4  # rows or columns, for a border to have an inside
MIN_LOCALITY = 0.4  # of that of the bands within; right networks give 0.87 and more


def check_borders(
    expert: nn.Module, base: Tensor, other: Tensor, moved_PND: Tensor, grid: Cell
) -> None:
    """What a crop cuts off moves no token at all, in any network."""
    effect = float(moved_PND.norm(dim=-1).max())
    if effect <= 0:
        fail("Changing a cell of the image changes no token; the tokens do not see the image.")
    height, width = base.shape[2:]

    def unseen(bands: dict[str, Region]) -> set[str]:
        moved = differences(expert, base, other, list(bands.values())).norm(dim=-1).amax(1)
        return {side for side, most in zip(bands, moved, strict=True) if most < UNSEEN * effect}

    thin = unseen(_bands(height, width, *(max(2, int(BORDER * side)) for side in (height, width))))
    cut = [side for pair in SIDES if thin.issuperset(pair) for side in pair]
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


def lost_border(
    expert: nn.Module, draws: Sequence[tuple[Tensor, Tensor]], grid: Cell
) -> tuple[str, bool]:
    """Say which border has no tokens of its own; "" if all have, as one of the draws shows.

    It is sure where two rows or columns are equal, whatever the network mixes.

    Attention lets every token see every border a little, so that a row which was lost with its
    tokens is not unseen. But no token is moved more than the others then.

    Args:
        expert: The expert.
        draws: Pairs of noise images [1, 3, H, W].
        grid: Rows and columns.
    """
    doubled = said = ""
    for base, other in draws:
        moved = [_moved_by_bands(expert, base, other, grid, axis) for axis in (0, 1)]
        doubled = _doubled(moved, grid)
        said = doubled or _not_local(moved, grid)
        if not said:
            break
    return said, bool(doubled)


def _moved_by_bands(
    expert: nn.Module, base: Tensor, other: Tensor, grid: Cell, axis: int
) -> Tensor:
    """Change whole rows or columns: the first, the last, and some within. [P, N, D]."""
    count, pixels = grid[axis], base.shape[2 + axis]
    within = {count // 3, count // 2, 2 * count // 3} - {0, count - 1}
    regions: list[Region] = []
    for at in [0, count - 1, *sorted(within)]:
        band = slice(at * pixels // count, (at + 1) * pixels // count)
        regions.append((band, slice(None)) if axis == 0 else (slice(None), band))
    return differences(expert, base, other, regions)


def _doubled(moved: Sequence[Tensor], grid: Cell) -> str:
    """Say where the outer two rows or columns of tokens, and no others, are always equal.

    A band of the other axis reaches all rows, so that equal ones are not just out of its sight. In
    a map that is upsampled by repeating, tokens are equal within as well; one that is upsampled
    threefold between its points has equal tokens at both borders.
    """
    for axis, pair in enumerate(SIDES):
        moved_PhwD = moved[1 - axis].view(-1, *grid, moved[0].shape[-1])
        moved_S = moved_PhwD.transpose(0, 1 + axis).flatten(1)
        if len(moved_S) < MIN_SIDE or not bool(moved_S.any(1).all()):
            continue
        apart_S = (moved_S[1:] - moved_S[:-1]).abs().amax(1)
        equal = (apart_S < EQUAL * moved_S.abs().max()).tolist()
        if sum(equal) == 1 and (equal[0] or equal[-1]):
            line = ("row", "column")[axis]
            return (
                f"The two {line}s of tokens at the {pair[0] if equal[0] else pair[1]} are always "
                f"equal: a {line} of the map was lost and its neighbour doubled."
            )
    return ""


def _not_local(moved: Sequence[Tensor], grid: Cell) -> str:
    """Say which border moves no row or column of tokens much more than the others."""
    for axis, pair in enumerate(SIDES):
        if grid[axis] < MIN_SIDE:
            continue
        profile_PS = lengths(moved[axis], grid).mean(2 - axis)
        local_P = profile_PS.amax(1) - profile_PS.median(1).values
        usual = float(local_P[2:].median())
        for side, local in zip(pair, local_P[:2].tolist(), strict=True):
            if local < MIN_LOCALITY * usual:
                return (
                    f"No token lies at the {side} of the image: a change there moves all of them "
                    "a little and none in particular. A row or column of the map was lost, or the "
                    "image is cropped."
                )
    return ""
