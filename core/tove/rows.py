"""Rows: what one configuration scored and cost. `results.json` is a list of them.

row = {name, experts: [slots], metrics: {"vsr/accuracy": {value, low, high, n}, ...},
       trainable_parameters, total_parameters, forward_ms, training_images, steps, seed, stage}
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tove.checkpoint import write_text

__all__ = ["nested_metrics", "read_rows", "results_table", "write_rows"]

_BOUNDS = ("low", "high", "n")


def nested_metrics(flat: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Gather mmengine's flat metrics by name: "vsr/accuracy_low" becomes ["vsr/accuracy"]["low"].

    Args:
        flat: "PREFIX/NAME" with, where the metric gives them, "..._low", "..._high", "..._n".

    Returns:
        dict name -> {value, and those of low, high, n that were given}.
    """
    nested: dict[str, dict[str, float]] = {}
    for key, value in flat.items():
        stem, _, bound = key.rpartition("_")
        if bound in _BOUNDS and stem in flat:
            continue
        entry = {"value": value}
        entry.update({b: flat[f"{key}_{b}"] for b in _BOUNDS if f"{key}_{b}" in flat})
        nested[key] = entry
    return nested


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON, atomically."""
    write_text(path, json.dumps(list(rows), indent=1) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what `write_rows` wrote; a missing file has no rows."""
    return json.loads(path.read_text()) if path.exists() else []


def results_table(rows: Sequence[Mapping[str, Any]], metrics: Iterable[str]) -> Table:
    """Lay rows out for the console.

    Args:
        rows: any rows.
        metrics: which metrics get a column; those that no row has are left out.
    """
    shown = [m for m in metrics if any(m in row["metrics"] for row in rows)]
    table = Table(title="Results on held-out data (95 % interval)")
    table.add_column("row")
    table.add_column("experts")
    for column in (*shown, "trainable", "total", "forward ms", "images", "steps"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            " ".join(row["experts"]) or "-",
            *(_score(row["metrics"].get(metric)) for metric in shown),
            f"{row['trainable_parameters']:,}",
            f"{row['total_parameters']:,}",
            f"{row['forward_ms']:.2f}",
            f"{row['training_images']:,}",
            f"{row['steps']:,}",
        )
    return table


def _score(metric: Mapping[str, float] | None) -> str:
    if metric is None:
        return "-"
    if "low" not in metric:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
