"""The page of a claim: its answer, the numbers behind it, and how they were measured.

RESULTS/NAME.md, NAME.json, NAME.png
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tove.atomic_io import atomic_writer, write_text
from tove.engine.rows import COST_COLUMNS, show_cost
from tove.errors import ConfigError
from tove.evaluation.intervals import Interval
from tove.report.row_roles import metric_label
from tove.report.theme import LIGHT, png
from tove.reproduce.answers import SEEDS, Answer, Found, Measured, joint, judge
from tove.reproduce.claim import Claim, Criterion
from tove.reproduce.figures import claim_figure
from tove.reproduce.gate_table import GATE_NOTE, gate_table
from tove.reproduce.markdown import table
from tove.reproduce.records import Record
from tove.reproduce.retrieval_table import retrieval_table

__all__ = ["Outcome", "answer", "write_outcome"]

_COSTS = ("trainable_parameters", "flops", "vision_tokens")
_COLUMNS = 6  # of a table by kind; a search among many settings has none


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a grid says to a claim.

    Attributes:
        claim: it.
        measured: the arms.
        tests: what came of its tests.
        beside: what came of what is reported beside them.
        records: that it is made of.
        quick: whether it was a first look.
    """

    claim: Claim
    measured: Measured
    tests: Sequence[Found]
    beside: Sequence[Found]
    records: Sequence[Record]
    quick: bool

    @property
    def answer(self) -> Answer:
        """The answer to the claim's question."""
        return joint(self.tests)

    @property
    def command(self) -> str:
        """What measures it anew."""
        seeds = max(found.interval.n for found in self.tests)
        quick = " --quick" * self.quick
        return f"mim run tove_plugins reproduce --claim {self.claim.asked} --seeds {seeds}{quick}"


def answer(
    claim: Claim, measured: Measured, records: Sequence[Record], quick: bool = False
) -> Outcome:
    """Judge a claim's criteria; those of arms that a first look leaves out are not looked at."""
    lines = measured.lines

    def there(criterion: Criterion) -> bool:
        if criterion.kind == "factor":
            return not quick or all(lines[line] for line in criterion.arms)
        return not quick or all(arm in measured.rows for arm in criterion.arms)

    tests, beside = (
        [judge(criterion, measured) for criterion in criteria if there(criterion)]
        for criteria in (claim.tests, claim.beside)
    )
    if not tests:
        raise ConfigError(
            f"The first look at {claim.path} leaves out arms of all its tests; give `quick` others."
        )
    return Outcome(claim, measured, tests, beside, records, quick)


def write_outcome(outcome: Outcome, folder: Path) -> Path:
    """Write a claim's page, its numbers and its figure; return the page's path."""
    name = outcome.claim.name
    picture = png(lambda theme: claim_figure(theme, outcome.claim, outcome.measured), LIGHT)
    with atomic_writer(folder / f"{name}.png") as stream:
        stream.write(picture)
    write_text(folder / f"{name}.json", json.dumps(_data(outcome), indent=1) + "\n")
    write_text(folder / f"{name}.md", _page(outcome))
    return folder / f"{name}.md"


# --- the parts of a page --------------------------------------------------------------------------


def _page(outcome: Outcome) -> str:
    claim = outcome.claim
    parts = [
        f"# {claim.question}",
        f"**{outcome.answer.capitalize()}.**{_reserve(outcome)}",
        *([f"What the paper reports: {claim.paper}"] if claim.paper else []),
        _criteria(outcome.tests),
        *(["Beside that:", _criteria(outcome.beside)] if outcome.beside else []),
        "## Scores",
        f"![{_figure_alt(claim)}]({claim.name}.png)",
        _scores(outcome),
        *_kinds(outcome),
        *_gates(outcome),
        *_retrieval(outcome),
        "## How it was measured",
        _provenance(outcome),
        f"```bash\n{outcome.command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _reserve(outcome: Outcome) -> str:
    """Say what the answer does not rest on."""
    seeds = min(found.interval.n for found in outcome.tests)
    said = " A first look: smaller runs than the claim's own." if outcome.quick else ""
    if seeds < SEEDS:
        lean = joint([replace(found, answer=found.leans) for found in outcome.tests])
        toward = f"; over images alone it points to {lean}" if lean != "undecided" else ""
        said += f" {seeds} of the {SEEDS} seeds that an answer takes{toward}."
    return said


def _criteria(found: Sequence[Found]) -> str:
    lines = [["", "", "95 %", "against", "seeds", "each seed", "holds"]]
    for one in found:
        kind = one.criterion.kind
        each = ", ".join(_number(value, kind) for value in one.each.values())
        value = f"{_sign(one.bound)}{_number(one.interval.value, kind)}"
        against = f"> {_number(one.criterion.above, kind)}"
        cells = [one.criterion.says, value, _ends(one.interval, kind), against]
        lines.append([*cells, str(one.interval.n), each, one.answer])
    return table(lines)


def _sign(bound: str) -> str:
    return {">": "at least ", "<": "at most "}.get(bound, "")


def _scores(outcome: Outcome) -> str:
    """Write the table of arms: mean and spread over seeds, and the difference over one of them."""
    claim, measured = outcome.claim, outcome.measured
    over = claim.over if claim.over in measured.rows else None
    heads = ["arm", "seeds"]
    for metric in claim.metrics:
        heads += [metric_label(metric), *([f"over {over}"] if over else [])]
    heads += ["images", "steps", *(COST_COLUMNS[cost] for cost in _COSTS)]
    lines = [heads]
    for arm in measured.rows:
        cells = [arm, str(len(measured.rows[arm]))]
        for metric in claim.metrics:
            cells.append(_mean(measured, arm, metric))
            cells += [_difference(measured, arm, over, metric)] if over else []
        cells += [f"{measured.column(arm, entry):,.0f}" for entry in ("training_images", "steps")]
        costs = {cost: measured.column(arm, cost) for cost in _COSTS}
        costs = {cost: round(value) for cost, value in costs.items() if not math.isnan(value)}
        lines.append([*cells, *(show_cost(costs, cost) for cost in _COSTS)])
    note = "± is the standard deviation over seeds; differences are paired, with 95 % intervals."
    return f"{table(lines)}\n\n{note}"


def _mean(measured: Measured, arm: str, metric: str) -> str:
    values = [row["metrics"].get(metric, math.nan) for row in measured.rows[arm].values()]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _difference(measured: Measured, arm: str, over: str, metric: str) -> str:
    if arm == over or not measured.seeds(arm, over):
        return ""
    found = judge(Criterion("", "difference", (arm, over), metric), measured).interval
    return f"{found.value:+.3f} ({_ends(found, 'difference')})"


def _kinds(outcome: Outcome) -> list[str]:
    """Write the differences of a few tests by kind of question, where items have kinds."""
    metric = outcome.claim.metrics[0]
    kinds = outcome.measured.kinds(metric)
    told = [one.criterion for one in outcome.tests if one.criterion.kind == "difference"]
    told = [criterion for criterion in told if criterion.metric == metric]
    if not (kinds and 0 < len(told) <= _COLUMNS):
        return []
    heads = ["kind", *(f"{c.arms[0]} over {c.arms[1]}" for c in told)]
    lines = [heads]
    for kind in kinds:
        name = f"{metric.partition('/')[0]}/relation/{kind}"
        cells = [_difference(outcome.measured, c.arms[0], c.arms[1], name) for c in told]
        lines.append([kind, *cells])
    return [f"## By kind: {metric_label(metric)}", table(lines)]


def _gates(outcome: Outcome) -> list[str]:
    """Write what the arms' gates do, where they have some."""
    lines = gate_table(outcome.measured.rows, outcome.claim.metrics[0])
    if not lines:
        return []
    return ["## Gates", GATE_NOTE, table(lines)]


def _retrieval(outcome: Outcome) -> list[str]:
    """Write what the arms' merged encoders can still do of what CLIP did."""
    note, lines = retrieval_table(outcome.measured.rows)
    return ["## Zero-shot retrieval", note, table(lines)] if lines else []


def _provenance(outcome: Outcome) -> str:
    told = [record.told for record in outcome.records]
    hours = sum(entry["seconds"] for entry in told) / 3600
    versions = ", ".join(sorted({entry["version"] for entry in told}))
    return (
        f"{len(told)} cells, {hours:.1f} hours of runs in all, at commit {_commits(told)} (version "
        f"{versions}). Intervals redraw seeds, and for each its test images, 2,000 times; over "
        "three seeds they are hardly wider than the seeds lie apart. Each cell's rows and scores "
        "by test item lie in [cells](cells)."
    )


def _commits(told: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({entry["commit"] or "unknown" for entry in told}))


def _figure_alt(claim: Claim) -> str:
    return f"{metric_label(claim.metrics[0])} of each arm, with 95 % intervals"


def _number(value: float, kind: str) -> str:
    if math.isinf(value):
        return "no bound"
    if kind == "factor":
        return f"{value:.3g}"
    return f"{value:+.3f}" if kind == "difference" else f"{value:.2f}"


def _ends(interval: Interval, kind: str) -> str:
    return f"{_number(interval.low, kind)} to {_number(interval.high, kind)}"


def _data(outcome: Outcome) -> dict[str, Any]:
    told = [record.told for record in outcome.records]
    scores = {
        arm: {
            metric: {seed: row["metrics"].get(metric) for seed, row in by_seed.items()}
            for metric in outcome.claim.metrics
        }
        for arm, by_seed in outcome.measured.rows.items()
    }
    found: dict[str, Any] = {
        "claim": outcome.claim.name,
        "question": outcome.claim.question,
        "answer": outcome.answer,
        "quick": outcome.quick,
        "seeds": max(one.interval.n for one in outcome.tests),
        "command": outcome.command,
        "commit": _commits(told),
        "tests": [_plain(asdict(one)) for one in outcome.tests],
        "beside": [_plain(asdict(one)) for one in outcome.beside],
        "scores": scores,
        "cells": [entry["digest"] for entry in told],
    }
    return found


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return what JSON can say: what is not finite is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
