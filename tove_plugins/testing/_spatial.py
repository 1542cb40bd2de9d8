"""Spatial order: token (i, j) must lie where the image content of cell (i, j) lies.

Cells of a noise image are replaced, one at a time, and the tokens that move are located; a random
network shows it as a trained one does. The responses of all cells, laid over each other with the
changed cell in the middle, give the drift: how far from its cell the content is found on average.

Strided convolutions put token i at the start of cell i rather than at its middle, and so drift by
half a cell along both axes; a pyramid's coarse levels add to it. That is common in good backbones
and passes. A lost or an added token drifts by a whole cell along one axis.

A map of the right order that lost its last row passes so far: the borders are looked at apart. And
a network that mixes so strongly that a cell moves tokens all over tells no order at all.
"""

import random

import torch
from torch import Tensor

from tove_plugins.testing._built import RELATIVE_TOLERANCE, relative_difference
from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._spatial_borders import check_borders, lost_border
from tove_plugins.testing._spatial_diagnosis import known_mistake
from tove_plugins.testing._spatial_faults import find_fault, is_diffuse
from tove_plugins.testing._spatial_probing import Cell, cell_region, differences, lengths
from tove_plugins.testing._subject import SEED, Subject, run_as_core

__all__: list[str] = []

NUM_PROBES = (4, 3)  # a cell out of each of 4 x 3 parts of the image, then the other way round
NUM_ROUNDS = 3  # of other cells and noise, before a failure is told
UNKNOWN = (
    "Likely causes: the image is cropped, padded or moved before the network, or tokens are "
    "reordered and not put back."
)


@expert_check("built")
def check_spatial_order(subject: Subject) -> None:
    """Experts meet CLIP's tokens position by position; a flipped grid teaches noise.

    Cells of the image are changed one by one, and the tokens that move must lie there; then whole
    rows and columns at the borders, which must have tokens of their own. A grid that is transposed,
    flipped, turned, shifted by a class token or by a row, a lost row, a channels-first map
    flattened as channels-last, tokens pooled over the image, an image cropped or padded before the
    network: each is told by its name. Half a cell of drift passes, for strided convolutions have
    it. A network in which one cell moves many tokens about equally is skipped.

    Mend: Flatten a map by `.flatten(2).transpose(1, 2)`, drop class and register tokens from the
    front, and resize the whole image without cropping, padding or flipping.
    """
    grid = subject.spec.tokens.grid
    if grid[0] * grid[1] < 4:
        raise SkipCheck("The grid is too small to tell an order.")
    expert, cells, moved = subject.fresh(), [], []
    draws = [_noise(subject, attempt) for attempt in range(NUM_ROUNDS)]
    for attempt, (base, other) in enumerate(draws):
        chosen = _choose(*grid, attempt)
        regions = [cell_region(base, cell, grid) for cell in chosen]
        cells += chosen
        moved.append(differences(expert, base, other, regions))
        moved_PND = torch.cat(moved)
        if attempt == 0:
            check_borders(expert, base, other, moved_PND, grid)
        fault = find_fault(cells, lengths(moved_PND, grid))
        if fault is None:
            break
    _tell(fault, lost_border(expert, draws[:2], grid), cells, moved_PND, subject)


@expert_check("built")
def check_mirrors(subject: Subject) -> None:
    """Where the spec says `mirrors`, a mirrored image's tokens are read from the other's.

    The tokens of four mirrored images must be the mirrored grids of the images' own, up to
    rounding. A spec that does not say it promises nothing.

    Mend: Leave `mirrors` out of the spec: position embeddings, learned kernels and strides that do
    not divide the image all tell left from right.
    """
    if not subject.spec.tokens.mirrors:
        return
    expert, images = subject.fresh(), subject.unlike_images()
    tokens = run_as_core(expert, images)
    rows, columns = subject.spec.tokens.grid
    expected = tokens.reshape(len(tokens), rows, columns, -1).flip(2).flatten(1, 2)
    difference = relative_difference(expected, run_as_core(expert, images.flip(3)))
    if not difference <= RELATIVE_TOLERANCE:
        fail(
            f"The tokens of mirrored images differ from the mirrored ones by {difference:.1e} of "
            "the largest entry; the spec must not say `mirrors`."
        )


def _noise(subject: Subject, attempt: int) -> tuple[Tensor, Tensor]:
    return subject.images(1, seed=2 * attempt), subject.images(1, seed=2 * attempt + 1)


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


def _tell(
    fault: str | None,
    border: tuple[str, bool],
    cells: list[Cell],
    moved_PND: Tensor,
    subject: Subject,
) -> None:
    """Fail with what was found and its likely cause, or skip what no cause explains."""
    grid = subject.spec.tokens.grid
    lost, is_sure = border
    mistake = known_mistake(cells, moved_PND, grid) if fault else ""
    if mistake:
        fail(f"{fault} {mistake}")
    if not fault and not lost:
        return
    if not is_sure and is_diffuse(lengths(moved_PND, grid)):
        is_random = subject.rebuild is not None and not subject.real
        raise SkipCheck(
            "The random build mixes too strongly to tell; use --real."
            if is_random
            else "It mixes too strongly to tell: one cell moves many tokens about equally."
        )
    fail(f"{fault} {lost or UNKNOWN}" if fault else lost)
