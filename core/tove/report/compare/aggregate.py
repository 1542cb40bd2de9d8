"""Settings side by side: their rows matched, pooled over seeds, with what they cost.

    one run       value [ends of its 95 % interval]
    several       mean over runs +- standard deviation over runs; costs are the lower median

The rows of a setting's runs are matched by name, those of a detachment by the set of experts left:
which expert goes first depends on the seed.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from tove.atomic_io import write_text
from tove.engine.rows import COST_COLUMNS, TABLE_METRICS, gives_one_answer, role_of, show_cost
from tove.errors import ConfigError, close_matches
from tove.protocols import Role, Row
from tove.report.compare.runs import Run, Setting

__all__ = [
    "Entry",
    "Estimate",
    "choose_metric",
    "cost_table",
    "entries_of",
    "remarks",
    "score_table",
    "write_csv",
    "write_json",
]

_EXPERT = "expert "


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: of one run, or the mean over runs.
        low: lower end of the interval, or one standard deviation below; None if not known.
        high: upper end.
        pooled: whether it is a mean over runs.
    """

    value: float
    low: float | None = None
    high: float | None = None
    pooled: bool = False

    def show(self, sign: str = "") -> str:
        """Write it with its interval or spread."""
        value = f"{self.value:{sign}.3f}"
        if self.low is None or self.high is None:
            return value
        if self.pooled:
            return f"{value} ± {self.high - self.value:.3f}"
        return f"{value} [{self.low:{sign}.2f}, {self.high:{sign}.2f}]"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the comparison.

    Attributes:
        setting: the label of its setting.
        row: its name; of a detachment its stage and the experts left.
        part: "detached", "merged" or "trained", by the role of the row.
        role: that its row plays in its run.
        experts: the slots that run.
        types: the expert in each of them.
        seeds: of the runs that have it.
        score: of the metric.
        gain: over the row `over`, paired within each run; None where no run has it.
        over: the row that the gain is over.
        costs: of the whole, by the names of `COST_COLUMNS`.
        parts: costs of "encoder", each "expert SLOT", and what else the method names.
    """

    setting: str
    row: str
    part: str
    role: Role
    experts: tuple[str, ...]
    types: Mapping[str, str]
    seeds: tuple[int, ...]
    score: Estimate
    gain: Estimate | None
    over: str
    costs: Mapping[str, float]
    parts: Mapping[str, Mapping[str, float]]


def choose_metric(runs: Iterable[Run], metric: str | None = None) -> str:
    """Give the metric to compare: the user's, or the first of the tables' that is there.

    Raises:
        ConfigError: no row has it.
    """
    known = list(dict.fromkeys(name for run in runs for row in run.rows for name in row["metrics"]))
    if metric is not None and metric not in known:
        raise ConfigError(f"No row has the metric '{metric}'. {close_matches(metric, known)}")
    if not known:
        raise ConfigError("No row has any metric; set test_evaluator in the config and run again.")
    return metric or next((name for name in TABLE_METRICS if name in known), known[0])


def entries_of(settings: Iterable[Setting], metric: str) -> list[Entry]:
    """Match the rows of each setting's runs and pool them; rows without the metric are left out."""
    return [
        _entry(setting.label, name, matched, metric)
        for setting in settings
        for name, matched in _matched(setting.runs, metric).items()
    ]


Matched = list[tuple[Run, Row]]


def _matched(runs: Sequence[Run], metric: str) -> dict[str, Matched]:
    """Give the rows by name, in the order of the runs; a detachment's with more experts first."""
    matched: dict[str, Matched] = {}
    stages: dict[str, int] = {}
    order: dict[str, tuple[int, int]] = {}
    for run in runs:
        for row in run.rows:
            if metric not in row["metrics"]:
                continue
            stage, detached = str(row.get("stage")), _part(row) == "detached"
            left = ", ".join(sorted(row["experts"])) or "no expert"
            name = f"{stage}, left: {left}" if detached else row["name"]
            matched.setdefault(name, []).append((run, row))
            place = stages.setdefault(stage if detached else name, len(stages))
            order[name] = (place, -len(row["experts"]) if detached else 0)
    return {name: matched[name] for name in sorted(matched, key=order.__getitem__)}


def _part(row: Row) -> str:
    role = role_of(row)
    return {"detached": "detached", "merged": "merged", "control": "merged"}.get(role, "trained")


def _entry(setting: str, name: str, matched: Matched, metric: str) -> Entry:
    run, row = matched[0]
    rows = [row for _, row in matched]
    gains = [row["gain"] for row in rows if metric in row.get("gain", {})]
    experts = run.cfg.get("model", {}).get("experts", {})
    return Entry(
        setting=setting,
        row=name,
        part=_part(row),
        role=role_of(row),
        experts=tuple(row["experts"]),
        types={slot: str(experts.get(slot, {}).get("type")) for slot in row["experts"]},
        seeds=tuple(sorted(row["seed"] for row in rows)),
        score=_estimate([row["metrics"][metric] for row in rows]),
        gain=_estimate([gain[metric] for gain in gains]) if gains else None,
        over=gains[0]["over"] if gains else "",
        costs=_costs(rows),
        parts=_parts([row["cost"] for row in rows if "cost" in row]),
    )


def _estimate(found: Sequence[Mapping[str, float]]) -> Estimate:
    if len(found) == 1:
        return Estimate(found[0]["value"], found[0].get("low"), found[0].get("high"))
    values = [entry["value"] for entry in found]
    mean, spread = statistics.mean(values), statistics.stdev(values)
    return Estimate(mean, mean - spread, mean + spread, pooled=True)


def _costs(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    values = {name: [e[name] for e in found if e.get(name) is not None] for name in COST_COLUMNS}
    return {name: statistics.median_low(given) for name, given in values.items() if given}


def _parts(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    if not found:
        return {}
    flat = [_flat_parts(cost) for cost in found]
    names = [name for name in flat[0] if all(name in parts for parts in flat)]
    return {name: _costs([parts[name] for parts in flat]) for name in names}


def _flat_parts(cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts by name, the encoder first; no slot's name is taken for another part's."""
    experts = {f"{_EXPERT}{slot}": part for slot, part in cost["experts"].items()}
    others = {n: part for n, part in cost.items() if n not in ("device", "experts", "encoder")}
    first = {"encoder": cost["encoder"]} if "encoder" in cost else {}
    return {**first, **experts, **others}


def score_table(entries: Sequence[Entry], metric: str) -> Table:
    """Lay scores, gains and costs out for the console."""
    over = next((entry.over for entry in entries if entry.over), "")
    table = Table(title="Scores, and costs in all", box=box.SIMPLE)
    table.add_column("setting", overflow="fold", ratio=1)
    table.add_column("row", overflow="fold", ratio=1)
    for column in ("runs", metric, *([f"gain over {over}"] if over else []), *_heads()):
        table.add_column(column, justify="right", no_wrap=True)
    last = ""
    for entry in entries:
        if last and entry.setting != last:
            table.add_section()
        gain = [entry.gain.show("+") if entry.gain else "-"] if over else []
        table.add_row(
            entry.setting if entry.setting != last else "",
            entry.row,
            str(len(entry.seeds)),
            entry.score.show(),
            *gain,
            *(show_cost(entry.costs, cost) for cost in COST_COLUMNS),
        )
        last = entry.setting
    return table


def cost_table(entries: Sequence[Entry]) -> Table | None:
    """Lay out what the parts of each setting's largest row cost; None where no row says."""
    table = Table(title="Costs by part, with all experts", box=box.SIMPLE)
    for column in ("setting", "part", "type"):
        table.add_column(column, overflow="fold")
    for column in _heads():
        table.add_column(column, justify="right", no_wrap=True)
    for setting in dict.fromkeys(entry.setting for entry in entries):
        own = [entry for entry in entries if entry.setting == setting and entry.parts]
        if not own:
            continue
        full = max(own, key=lambda entry: len(entry.experts))
        for index, (part, costs) in enumerate({**full.parts, "total": full.costs}.items()):
            shown = [show_cost(costs, cost) for cost in COST_COLUMNS]
            table.add_row("" if index else setting, part, _type(full, part), *shown)
        table.add_section()
    return table if table.row_count else None


def _type(entry: Entry, part: str) -> str:
    return entry.types.get(part.removeprefix(_EXPERT), "") if part.startswith(_EXPERT) else ""


def _heads() -> Iterator[str]:
    yield from COST_COLUMNS.values()


def remarks(settings: Sequence[Setting], metric: str) -> list[str]:
    """Say what a reader of the tables has to know; `metric` is the one they show."""
    said = []
    if any(len(setting.runs) > 1 for setting in settings):
        said.append("± is the standard deviation over the runs that are pooled.")
    for setting in settings:
        seeds = [run.cfg.get("seed") for run in setting.runs]
        if len(set(seeds)) < len(seeds):
            said.append(f"{setting.label}: several runs have the same seed; ± tells nothing there.")
    for setting in settings:
        rows = [row for run in setting.runs for row in run.rows]
        same = list(dict.fromkeys(row["name"] for row in rows if gives_one_answer(row, metric)))
        if same:
            said.append(
                f"{setting.label}: {', '.join(same)} gave one answer to everything, so their "
                f"{metric} tells nothing of what they see."
            )
    rows = [row for setting in settings for run in setting.runs for row in run.rows]
    devices = sorted({row["cost"]["device"] for row in rows if "cost" in row})
    if len(devices) > 1:
        said.append(f"Milliseconds are of different devices: {', '.join(devices)}.")
    return said


def write_json(path: Path, entries: Iterable[Entry], metric: str) -> None:
    """Write the entries with all their attributes."""
    write_text(
        path, json.dumps([{"metric": metric, **asdict(e)} for e in entries], indent=1) + "\n"
    )


def write_csv(path: Path, entries: Iterable[Entry], metric: str) -> None:
    """Write a line per row with the costs of the whole, and one per part of it."""
    columns = ("setting", "row", "part", "type", "runs", "metric", "value", "low", "high")
    gains = ("gain", "gain_low", "gain_high")
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*columns, *gains, *COST_COLUMNS], lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        where = {"setting": entry.setting, "row": entry.row, "runs": len(entry.seeds)}
        score = {"metric": metric} | _flat(entry.score, ("value", "low", "high"))
        gain = _flat(entry.gain, gains) if entry.gain else {}
        writer.writerow(where | {"part": "total"} | score | gain | dict(entry.costs))
        for part, costs in entry.parts.items():
            writer.writerow(where | {"part": part, "type": _type(entry, part)} | dict(costs))
    write_text(path, stream.getvalue())


def _flat(estimate: Estimate, names: Sequence[str]) -> dict[str, Any]:
    return dict(zip(names, list(asdict(estimate).values())[:3], strict=True))
