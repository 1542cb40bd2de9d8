"""The command line: `python -m tove_plugins list [--json]`."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tove_plugins._catalog import Catalog, ExpertEntry
from tove_plugins._discovery import discover
from tove_plugins.specs import API_VERSION

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tove_plugins", description="Look at the experts of this environment."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="list the experts and what became of each plugin")
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")
    parsed = parser.parse_args(arguments)
    catalog = discover()
    print(json.dumps(_as_json(catalog), indent=2) if parsed.json else _as_table(catalog))
    return 0


def _as_json(catalog: Catalog) -> dict[str, Any]:
    return {
        "api": API_VERSION,
        "experts": [
            {
                **_jsonable(entry.spec.as_dict()),
                "distribution": entry.distribution,
                "version": entry.version,
                "plugin": entry.plugin,
                "status": _status(catalog, entry),
            }
            for entry in catalog.experts.values()
        ],
        "plugins": [asdict(record) for record in catalog.plugins],
        "notes": list(catalog.notes),
    }


def _jsonable(spec: dict[str, Any]) -> dict[str, Any]:
    """Keep a stranger's option that JSON does not know from breaking the listing."""
    text = json.dumps(spec, default=repr)
    result: dict[str, Any] = json.loads(text)
    return result


def _status(catalog: Catalog, entry: ExpertEntry) -> str:
    """Give the status of the plugin that the expert comes from."""
    return next(
        record.status
        for record in catalog.plugins
        if record.name == entry.plugin and entry.spec.name in record.experts
    )


def _as_table(catalog: Catalog) -> str:
    head = ("NAME", "TASK", "TOKENS", "IMAGE", "SIZE", "LICENCE", "DISTRIBUTION", "STATUS")
    rows = [_row(catalog, entry) for entry in catalog.experts.values()]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    remarks = [
        f"{record.label} [{record.status}] {record.reason}"
        for record in catalog.plugins
        if record.reason
    ]
    return "\n".join(
        [*lines, *([""] if remarks or catalog.notes else []), *remarks, *catalog.notes]
    )


def _row(catalog: Catalog, entry: ExpertEntry) -> tuple[str, ...]:
    spec = entry.spec
    rows, columns = spec.tokens.grid
    return (
        spec.name,
        spec.task,
        f"{rows}x{columns}x{spec.tokens.width} {spec.tokens.kind}",
        f"{spec.image.size[0]}x{spec.image.size[1]}",
        f"{spec.weights.size_mb:.1f} MB" if spec.weights else "-",
        spec.weights.licence if spec.weights else "-",
        f"{entry.distribution} {entry.version}",
        _status(catalog, entry),
    )
