"""Compares runs: one table over their results, a mean and a spread where seeds differ.

python tools/compare.py WORK_DIR [WORK_DIR ...] [--metric vsr/accuracy] [--json FILE]
mim run tove_plugins compare WORK_DIR [WORK_DIR ...]
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dirs", nargs="+", type=Path, help="folders with a results.json")
    parser.add_argument("--metric", default="vsr/accuracy", help="the metric to compare")
    parser.add_argument("--json", type=Path, default=None, help="write the table here as well")
    return parser.parse_args()


def read_runs(work_dirs: list[Path]) -> list[dict[str, dict[str, Any]]]:
    """Gives each run's rows by name.

    Raises:
        SystemExit: A folder has no results.json, or none that can be read.
    """
    runs = []
    for folder in work_dirs:
        path = folder / "results.json"
        try:
            runs.append({row["name"]: row for row in json.loads(path.read_text())})
        except (OSError, ValueError, TypeError, KeyError) as error:
            print(
                f"{path} cannot be read as the results of a run ({error}); give the work folders "
                "of runs that have finished a stage.",
                file=sys.stderr,
            )
            raise SystemExit(2) from error
    return runs


def summarise(runs: list[dict[str, dict[str, Any]]], metric: str) -> list[dict[str, Any]]:
    """One entry a row name: the runs' values, mean, spread, and gain over the baseline.

    Gains are differences within a run, so that what its seed did to both sides cancels.

    Args:
        runs: rows by name, a dict a run.
        metric: key of `metrics` in each row.
    """
    names = list(dict.fromkeys(name for run in runs for name in run))
    summary = []
    for name in names:
        found = [run for run in runs if metric in run.get(name, {}).get("metrics", {})]
        if not found:
            continue
        values = [run[name]["metrics"][metric]["value"] for run in found]
        gains = [
            run[name]["metrics"][metric]["value"] - run["baseline"]["metrics"][metric]["value"]
            for run in found
            if metric in run.get("baseline", {}).get("metrics", {})
        ]
        row = found[0][name]
        summary.append(
            {
                "name": name,
                "runs": len(values),
                "values": values,
                "mean": statistics.mean(values),
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "gain": statistics.mean(gains) if gains else None,
                "gain_sd": statistics.stdev(gains) if len(gains) > 1 else None,
                "trainable_parameters": row["trainable_parameters"],
                "total_parameters": row["total_parameters"],
                "forward_ms": statistics.median(run[name]["forward_ms"] for run in found),
            }
        )
    return summary


def main() -> None:
    """Prints the table."""
    args = parse_arguments()
    runs = read_runs(args.work_dirs)
    summary = summarise(runs, args.metric)
    if not summary:
        known = sorted({m for run in runs for row in run.values() for m in row["metrics"]})
        print(f"No row has the metric {args.metric!r}; known: {known}.", file=sys.stderr)
        raise SystemExit(2)
    if args.json:
        args.json.write_text(json.dumps(summary, indent=2) + "\n")

    from rich.console import Console
    from rich.table import Table

    def with_spread(value: float | None, spread: float | None, sign: str) -> str:
        if value is None:
            return ""
        return f"{value:{sign}.4f}" + ("" if spread is None else f" ± {spread:.4f}")

    table = Table("row", "runs", args.metric, "gain over baseline", "trainable", "total", "ms")
    for row in summary:
        table.add_row(
            row["name"],
            str(row["runs"]),
            with_spread(row["mean"], row["sd"], ""),
            with_spread(row["gain"], row["gain_sd"], "+"),
            f"{row['trainable_parameters']:,}",
            f"{row['total_parameters']:,}",
            f"{row['forward_ms']:.1f}",
        )
    Console().print(table)
    print("± is the standard deviation over runs; gains are differences within a run.")


if __name__ == "__main__":
    main()
