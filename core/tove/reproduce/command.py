"""What `reproduce` does: grids of the claims that are asked for, their pages, the page of all."""

import argparse
from pathlib import Path

from tove.engine.rows import make_console
from tove.reproduce.answers import gather
from tove.reproduce.cells import Cell, make_cell
from tove.reproduce.claim import Claim, find_claims, read_claim
from tove.reproduce.grid import Grid, failure
from tove.reproduce.index import write_index
from tove.reproduce.page import answer, write_outcome
from tove.reproduce.records import Record

__all__ = ["reproduce"]

Cells = dict[str, dict[int, Cell]]
"""By name, by seed."""


def reproduce(args: argparse.Namespace) -> None:
    """Run the grids and write the pages; see `tools/reproduce.py` for the arguments.

    Raises:
        ConfigError: an unknown claim, or cells that failed; what has finished is kept.
    """
    console = make_console()
    names = args.claim or list(find_claims(args.claims))
    claims = [read_claim(name, args.claims) for name in names]
    claims = [claim.quickly() if args.quick else claim for claim in claims]
    results = args.results or (args.work_dir / "quick" if args.quick else Path("docs/results"))
    grid = Grid(args.work_dir, results / "cells", args.train, args.jobs, console)
    planned = {claim.name: _cells(claim, args.seeds, args.work_dir) for claim in claims}
    cells = [cell for by_name in planned.values() for cell in _by_seed(by_name)]
    found = grid.run(cells)
    for claim in claims:
        _conclude(claim, planned[claim.name], found, results, args)
    write_index(args.claims, results)
    console.print(f"  {results / 'README.md'}  all claims")
    if grid.failed:
        raise failure(grid.failed, len({cell.name for cell in cells}))


def _cells(claim: Claim, seeds: int | None, work: Path) -> Cells:
    return {
        name: {
            seed: make_cell(claim.config, over, seed, work.resolve())
            for seed in range(seeds or claim.seeds)
        }
        for name, over in claim.cells.items()
    }


def _by_seed(cells: Cells) -> list[Cell]:
    """Return the cells in the order in which a grid runs them: whole seeds one after another."""
    return sorted((cell for by_seed in cells.values() for cell in by_seed.values()), key=_seed)


def _seed(cell: Cell) -> int:
    return cell.seed


def _conclude(
    claim: Claim,
    cells: Cells,
    found: dict[str, Record],
    results: Path,
    args: argparse.Namespace,
) -> None:
    """Write a claim's page from the seeds of which all cells have finished."""
    console = make_console()
    seeds = next(iter(cells.values())).keys()
    whole = [seed for seed in seeds if all(cells[name][seed].name in found for name in cells)]
    if not whole:
        missing = sum(c.name not in found for own in cells.values() for c in own.values())
        console.print(f"{claim.name}: no page, {missing} cells have not finished")
        return
    records = {n: {seed: found[own[seed].name] for seed in whole} for n, own in cells.items()}
    measured = gather(records, claim.lines, partial=args.quick)
    kept = [record for by_seed in records.values() for record in by_seed.values()]
    outcome = answer(claim, measured, kept, args.quick)
    path = write_outcome(outcome, results)
    console.print(f"{claim.name}: {claim.question} {outcome.answer}")
    console.print(f"  {path}  the numbers")
