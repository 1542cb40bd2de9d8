"""Spatial order: token (i, j) must lie where the image content of cell (i, j) lies.

One cell of an image is changed and the token that moves most is located; over many cells the
located and the changed positions must agree. A random network shows it as a trained one does.
Strided convolutions with a padding of 1 put token i at the start of cell i rather than at its
middle, half a cell off; that is common in good backbones and passes, a whole token is not.

Shapes: P probes, h x w the grid, D width.
"""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import SEED, Subject, run_as_core

__all__: list[str] = []

Cell = tuple[int, int]

NUM_PROBES = 16
NUM_BASES = 3
MIN_AGREEMENT = 0.75
DRIFT_RANGE = (-0.45, 0.75)  # cells; strided convolutions give +0.5, a lost token gives 1
REACH = 2  # cells; half a cell off, a pyramid's broad response is cut unevenly by a window of 1


@expert_check("built")
def check_spatial_order(subject: Subject) -> None:
    """Experts meet CLIP's tokens position by position; a flipped grid teaches noise."""
    rows, columns = subject.spec.tokens.grid
    if rows * columns < 4:
        raise SkipCheck("The grid is too small to tell an order.")
    expert, probes = subject.fresh(), _probes(rows, columns)
    responses = _responses(subject, expert, probes)
    if any(float(response.max()) <= 0 for response in responses):
        fail("Changing a cell of the image changes no token; the tokens do not see the image.")
    located = [divmod(int(response.argmax()), columns) for response in responses]
    agreement = _agreement(probes, located, rows, columns)
    drift = _drift(probes, responses)
    low, high = DRIFT_RANGE
    if agreement >= MIN_AGREEMENT and low < min(drift) and max(drift) < high:
        return
    fail(
        f"Of {len(probes)} changed image cells {agreement:.0%} move a token at or beside that "
        f"cell, with a drift of ({drift[0]:+.1f}, {drift[1]:+.1f}) rows and columns. "
        f"{_diagnosis(probes, located, rows, columns)}"
    )


def _probes(rows: int, columns: int) -> list[Cell]:
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    if len(cells) <= NUM_PROBES:
        return cells
    return random.Random(SEED).sample(cells, NUM_PROBES)


def _responses(subject: Subject, expert: nn.Module, probes: list[Cell]) -> list[Tensor]:
    """Give for each probe how far every token moves, [h, w], when its cell becomes noise."""
    (height, width), (rows, columns) = subject.spec.image.size, subject.spec.tokens.grid
    generator = torch.Generator().manual_seed(SEED)
    calm = 0.5 + 0.1 * (torch.rand(NUM_BASES, 3, height, width, generator=generator) - 0.5)
    noise = torch.rand(NUM_BASES, 3, height, width, generator=generator).round()
    before = run_as_core(expert, subject.normalise(calm))
    responses = []
    for row, column in probes:
        changed = calm.clone()
        region = (
            slice(row * height // rows, (row + 1) * height // rows),
            slice(column * width // columns, (column + 1) * width // columns),
        )
        changed[..., *region] = noise[..., *region]
        after = run_as_core(expert, subject.normalise(changed))
        moved: Tensor = (after - before).detach().float().norm(dim=-1).mean(0).cpu()
        responses.append(moved.view(rows, columns))
    return responses


def _agreement(probes: list[Cell], located: list[Cell], rows: int, columns: int) -> float:
    slack = [1 if side >= 4 else 0 for side in (rows, columns)]
    slack = [max(s, round(0.06 * side)) for s, side in zip(slack, (rows, columns), strict=True)]
    hits = [
        abs(p[0] - q[0]) <= slack[0] and abs(p[1] - q[1]) <= slack[1]
        for p, q in zip(probes, located, strict=True)
    ]
    return sum(hits) / len(hits)


def _drift(probes: list[Cell], responses: list[Tensor]) -> tuple[float, float]:
    """Give the median offset of the response's centre from the changed cell, in cells."""
    offsets = [
        _centre(response) - torch.tensor(p) for p, response in zip(probes, responses, strict=True)
    ]
    rows, columns = torch.stack(offsets).median(dim=0).values.tolist()
    return rows, columns


def _centre(response_hw: Tensor) -> Tensor:
    """Give the centre of mass (row, column) of the squared response around its peak."""
    peak = divmod(int(response_hw.argmax()), response_hw.shape[1])
    near = torch.zeros_like(response_hw)
    window = tuple(slice(max(at - REACH, 0), at + REACH + 1) for at in peak)
    near[window] = response_hw[window].square()
    grid = torch.meshgrid(*(torch.arange(side).float() for side in near.shape), indexing="ij")
    return torch.stack([(axis * near).sum() / near.sum() for axis in grid])


def _diagnosis(probes: list[Cell], located: list[Cell], rows: int, columns: int) -> str:
    """Say which known mistake explains where the tokens were found."""

    def shifted(cell: Cell, by: int) -> Cell:
        return divmod((cell[0] * columns + cell[1] + by) % (rows * columns), columns)

    def turned(cell: Cell) -> Cell:
        return divmod(cell[1] * rows + cell[0], columns)

    mistakes: dict[str, Callable[[Cell], Cell]] = {
        "The grid is transposed: tokens must run row by row.": turned,
        "The rows are flipped.": lambda c: (rows - 1 - c[0], c[1]),
        "The columns are flipped.": lambda c: (c[0], columns - 1 - c[1]),
        "The grid is turned by half.": lambda c: (rows - 1 - c[0], columns - 1 - c[1]),
        "Every token is one late: a class token is counted as a patch.": lambda c: shifted(c, 1),
        "Every token is one early: the first patch was dropped.": lambda c: shifted(c, -1),
    }
    exact = {
        sentence: sum(move(p) == q for p, q in zip(probes, located, strict=True)) / len(probes)
        for sentence, move in mistakes.items()
    }
    best = max(exact, key=lambda sentence: exact[sentence])
    if exact[best] >= MIN_AGREEMENT:
        return best
    return (
        "Likely causes: a channels-first map reshaped without .flatten(2).transpose(1, 2), or "
        "another crop than the image that was given."
    )
