"""What `reproduce` does: grids of the claims that are asked for, their pages, the page of all."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tove.atomic_io import check_places
from tove.engine.rows import make_console
from tove.errors import ConfigError
from tove.reproduce.answers import gather
from tove.reproduce.cells import Cell, make_cell
from tove.reproduce.claim import Claim, find_claims, read_claim
from tove.reproduce.claim_checks import check_claim
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
        ConfigError: an unknown claim, one that cannot be answered, or cells that failed; what has
            finished is kept.
    """
    console = make_console()
    names = args.claim or list(find_claims(args.claims))
    claims = [read_claim(name, args.claims) for name in dict.fromkeys(names)]
    _check_names(claims, args.claims)
    for claim in claims:
        check_claim(claim, _by_seed(_cells(claim, 1, args.work_dir)))
    claims = [claim.quickly() if args.quick else claim for claim in claims]
    results = args.results or (args.work_dir / "quick" if args.quick else Path("docs/results"))
    check_places(results / "README.md", results / "cells" / "NAME.json")
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


def _check_names(claims: Sequence[Claim], folder: Path) -> None:
    """Refuse two claims of one name: the page of one would take the place of the other's."""
    known = {name: path.resolve() for name, path in find_claims(folder).items()}
    for claim in claims:
        other = known.setdefault(claim.name, claim.path)
        if other != claim.path:
            raise ConfigError(
                f"The claim {claim.path} has the name of {other}, whose page its own would "
                "replace; rename the file."
            )


def _cells(claim: Claim, seeds: int | None, work: Path) -> Cells:
    def cell(name: str, seed: int) -> Cell:
        try:
            return make_cell(claim.config, claim.cells[name], seed, work.resolve())
        except ConfigError as error:
            raise ConfigError(f"Cell '{name}' of the claim {claim.path}: {error}") from error

    number = range(seeds or claim.seeds)
    return {name: {seed: cell(name, seed) for seed in number} for name in claim.cells}


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
