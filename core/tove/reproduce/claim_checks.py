"""What a claim names that its runs are going to give: a wrong name is said before any of them runs.

Arms are the rows of the cells' stages, metrics those of which an evaluation keeps items' scores.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from tove.config.validation import accepted_arguments, look_up
from tove.engine.model_checks import check_part
from tove.errors import ConfigError, close_matches
from tove.registry import METRICS, STAGES
from tove.reproduce.cells import Cell
from tove.reproduce.claim import Claim

__all__ = ["check_claim"]


def check_claim(claim: Claim, cells: Sequence[Cell]) -> None:
    """Hold the arms, lines and metrics that a claim names against its cells.

    Args:
        claim: names arms in criteria, lines and `over`.
        cells: all of the claim's, of one seed.

    Raises:
        ConfigError: no cell has an arm or a metric, or two cells have the same arm; no line has a
            name.
    """
    where, criteria = f"The claim {claim.path}", (*claim.tests, *claim.beside)
    stages = [stage for cell in cells for stage in _stages(cell)]
    twice = [row for row, number in Counter(row for row, _ in stages if row).items() if number > 1]
    if twice:
        raise ConfigError(f"{where} has two rows '{twice[0]}'; give a stage another `row`.")
    factors = [criterion for criterion in criteria if criterion.kind == "factor"]
    _check(where, "a line", (line for one in factors for line in one.arms), claim.lines)
    arms = [arm for one in criteria if one not in factors for arm in one.arms]
    arms += [arm for line in claim.lines.values() for arm in line]
    arms += [claim.over] if claim.over is not None else []
    _check(where, "an arm", arms, {arm for row, others in stages for arm in (row, *others) if arm})
    # Of the others the table has the mean alone, where nothing is held against an arm.
    shown = claim.metrics if claim.over is not None else claim.metrics[:1]
    metrics = [*shown, *(criterion.metric for criterion in criteria)]
    known = {metric for cell in cells for metric in _metrics(cell)}
    kinds = {f"{metric.partition('/')[0]}/relation" for metric in known}  # which, the data tells
    asked = (metric.rpartition("/")[0] if "/relation/" in metric else metric for metric in metrics)
    _check(where, "a metric", asked, known | kinds)


def _check(where: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{where} names {what} '{name}', which none of its cells has. "
                f"{close_matches(name, known)}"
            )


def _stages(cell: Cell) -> Iterator[tuple[str, list[str]]]:
    """Yield of each stage the row that its settings name, "" if none, and others it may give.

    A stage without the argument `row` gives none, one of its own name, or one for each number of
    experts left.
    """
    entries = cell.cfg["stages"]
    models = [cell.cfg["model"], *(entry.get("model") or {} for entry in entries)]
    slots = {slot for model in models for slot in model.get("experts") or ()}
    for entry in entries:
        name, kind = entry["name"], look_up(STAGES, entry["type"], "stages")
        if "row" in (accepted_arguments(kind) or ()):
            yield entry.get("row") or name, []
        else:
            yield "", [name, *(f"{name}-{number}" for number in range(len(slots)))]


def _metrics(cell: Cell) -> Iterator[str]:
    entries = cell.cfg.get("test_evaluator", [])
    for entry in entries if isinstance(entries, list) else [entries]:
        check_part(METRICS, entry, "test_evaluator")
        metric = METRICS.build(dict(entry))
        if hasattr(metric, "item_metric"):
            yield f"{metric.prefix}/{metric.item_metric}"
