"""Rows: what one configuration scored and cost. `results.json` is a list of them.

row = {name, role, model, experts: [slots], metrics: {"vsr/accuracy": {value, low, high, n}, ...},
       gain: {over: "baseline", "vsr/accuracy": {value, low, high, n}, ...}, on paired items,
       gate: {entropy, share: {slot: mean weight}}, see `tove.engine.gate_summary`,
       trainable_parameters, total_parameters, flops, forward_ms, peak_memory_mb, vision_tokens,
       cost: {device, encoder: part, experts: {slot: part}, fusion: part, language: part},
       training_images, steps, seed, stage}

The role says what a row is to the others: "plain" CLIP, a "baseline" without experts, a "method",
a "variant" of one, "detached" from one, "merged" into one encoder, or the "control" of a merge.
Tables, findings and gains go by it and never by a name.

`tove.evaluation.profile` says what the costs are of. Rows that were written before they had
`flops`, `peak_memory_mb` and `cost` are read as well.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tove.atomic_io import write_text
from tove.data.annotations import read_json
from tove.protocols import Role, Row

__all__ = [
    "COST_COLUMNS",
    "REFERENCE_ROLES",
    "TABLE_METRICS",
    "WRITTEN",
    "gives_one_answer",
    "make_console",
    "nested_metrics",
    "read_rows",
    "reference_of",
    "results_table",
    "role_of",
    "show_cost",
    "show_score",
    "write_rows",
]

WRITTEN = "what a run wrote there; it is damaged: put it back, or run without --resume and --stage"
"""What a JSON file of a run should be, for the message about one that cannot be read."""
TABLE_METRICS = ("vsr/accuracy", "caption/CIDEr", "chat/accuracy")
"""What tables show where a config does not say `table_metrics`."""
COST_COLUMNS = {
    "trainable_parameters": "trainable",
    "total_parameters": "total",
    "flops": "FLOPs",
    "forward_ms": "fwd ms",
    "peak_memory_mb": "MB",
    "vision_tokens": "tokens",
}
"""The costs of a row, with the heads of their columns."""
REFERENCE_ROLES: tuple[Role, ...] = ("baseline", "plain")
"""Rows that others are held against, the better one first."""
_BOUNDS = ("low", "high")
_ONE_ANSWER = 0.99  # of all answers the same


def reference_of(rows: Iterable[Row], role: Role, name: str | None = None) -> Row | None:
    """Return the row that a gain is over; None where there is none.

    Args:
        rows: that are measured already.
        role: of the row whose gain it is: what others are held against has no gain itself.
        name: of the row, where the config says it; else the last baseline, else the last plain
            CLIP: what trains in two stages has a row of each, and the last is what it became.
    """
    rows = list(rows)[::-1]
    if name is not None:
        return next((row for row in rows if row["name"] == name), None)
    if role in REFERENCE_ROLES:
        return None
    return next((row for wanted in REFERENCE_ROLES for row in rows if role_of(row) == wanted), None)


def role_of(row: Mapping[str, Any]) -> Role:
    """Return a row's role; rows of version 0.1 had none, but were called by it."""
    if "role" in row:
        role: Role = row["role"]
        return role
    named: dict[str, Role] = {"plain_clip": "plain", "baseline": "baseline", "merged": "merged"}
    named["merged_baseline"] = "control"
    return named.get(row["name"], "detached" if row["name"].startswith("tove-") else "method")


def gives_one_answer(row: Mapping[str, Any], metric: str) -> bool:
    """Tell whether a row's model answered the same to (nearly) all items of a metric.

    Its score is then that answer's share of the right ones, whatever the model sees.
    """
    share = row["metrics"].get(f"{metric.partition('/')[0]}/top_answer_share")
    return bool(share) and share["value"] >= _ONE_ANSWER and share.get("n", 2) > 1


def nested_metrics(flat: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Gather mmengine's flat metrics by name: "vsr/accuracy_low" becomes ["vsr/accuracy"]["low"].

    Args:
        flat: "PREFIX/NAME" with, where the metric gives them, "..._low" and "..._high", and the
            number of samples as "PREFIX/num_...".

    Returns:
        dict name -> {value, and low, high, n where they were given}.
    """
    counts = {k.partition("/")[0]: int(v) for k, v in flat.items() if "/num_" in k}
    nested: dict[str, dict[str, float]] = {}
    for key, value in flat.items():
        stem, _, bound = key.rpartition("_")
        if "/num_" in key or (bound in _BOUNDS and stem in flat):
            continue
        nested[key] = {"value": value}
        nested[key] |= {b: flat[f"{key}_{b}"] for b in _BOUNDS if f"{key}_{b}" in flat}
        prefix, _, name = key.partition("/")
        if prefix in counts and "/" not in name:
            nested[key]["n"] = counts[prefix]
    return nested


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON, atomically."""
    write_text(path, json.dumps(list(rows), indent=1) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what `write_rows` wrote; a missing file has no rows.

    Raises:
        ConfigError: it is damaged.
    """
    return read_json(str(path), WRITTEN, hint=list[dict]) if path.exists() else []


class _Console(Console):
    """Leaves it to the command what becomes of a reader that has read enough."""

    def on_broken_pipe(self) -> None:
        """Raise the error on; rich would end the process."""
        raise


def make_console(quiet: bool = False) -> Console:
    """Make the console for lines and tables, which prints brackets in names as they are.

    A log file or pipe is taken to be wide enough for the tables.
    """
    options: dict[str, Any] = dict(quiet=quiet, soft_wrap=True, markup=False, highlight=False)
    console = _Console(**options)
    return console if console.is_terminal else _Console(**options, width=140)


def results_table(rows: Sequence[Mapping[str, Any]], metrics: Iterable[str]) -> Table:
    """Lay rows out for the console.

    Args:
        rows: any rows.
        metrics: which metrics get a column; those that no row has are left out.
    """
    shown = [m for m in metrics if any(m in row["metrics"] for row in rows)]
    table = Table(title="Held-out scores (95 % interval) and costs", box=box.SIMPLE)
    table.add_column("row", no_wrap=True)
    for column in ("experts", *shown, *COST_COLUMNS.values(), "images", "steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            str(len(row["experts"])),
            *(show_score(row["metrics"].get(metric)) for metric in shown),
            *(show_cost(row, cost) for cost in COST_COLUMNS),
            f"{row['training_images']:,}",
            f"{row['steps']:,}",
        )
    return table


def show_score(metric: Mapping[str, float] | None) -> str:
    """Write a score with its interval."""
    if metric is None:
        return "-"
    if "low" not in metric:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.2f}, {metric['high']:.2f}]"


def show_cost(costs: Mapping[str, Any], name: str) -> str:
    """Write one of the `COST_COLUMNS` of a row or a part; "-" where it was not measured."""
    value = costs.get(name)
    if value is None:
        return "-"
    if name == "forward_ms":
        return f"{value:.2f}"
    if name == "peak_memory_mb":
        return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    return _short(value)


def _short(count: int) -> str:
    """Write a count in three figures."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
