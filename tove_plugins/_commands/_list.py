"""`list`: the experts of this environment, and a sentence for each plugin that is not well."""

import argparse
import json
from dataclasses import asdict
from itertools import chain
from typing import Any

from tove_plugins._catalog import Catalog, ExpertEntry
from tove_plugins._commands._finding import expert_status, find_experts
from tove_plugins._commands._text import fit_table, line_width, wrap
from tove_plugins.specs import API_VERSION

__all__ = ["add_arguments", "run"]

SHORTEST = {"DISTRIBUTION": 12, "LICENCE": 10, "TASK": 9}
DROPPABLE = ("IMAGE", "DISTRIBUTION", "SIZE", "LICENCE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only experts whose description has every word"
    )
    parser.add_argument("--task", help="only experts of this task, depth say")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(parsed: argparse.Namespace) -> int:
    """List the experts."""
    catalog = find_experts()
    every = [*catalog.experts.values(), *chain.from_iterable(catalog.contested.values())]
    every.sort(key=lambda entry: entry.spec.name)
    entries = [entry for entry in every if _is_wanted(entry, parsed.words, parsed.task)]
    if parsed.json:
        print(json.dumps(_as_json(catalog, entries), indent=2))
    else:
        print("\n".join(_as_text(catalog, entries)))
    return 0


def _is_wanted(entry: ExpertEntry, words: list[str], task: str | None) -> bool:
    spec = entry.spec
    if task is not None and spec.task.lower() != task.lower():
        return False
    text = " ".join((spec.name, spec.task, entry.distribution, spec.description)).lower()
    return all(word.lower() in text for word in words)


def _as_json(catalog: Catalog, entries: list[ExpertEntry]) -> dict[str, Any]:
    return {
        "api": API_VERSION,
        "experts": [
            {
                **_jsonable(entry.spec.as_dict()),
                "distribution": entry.distribution,
                "version": entry.version,
                "plugin": entry.plugin,
                "status": expert_status(catalog, entry),
            }
            for entry in entries
        ],
        "plugins": [asdict(record) for record in catalog.plugins],
        "notes": list(catalog.notes),
    }


def _jsonable(spec: dict[str, Any]) -> dict[str, Any]:
    """Keep a stranger's option that JSON does not know from breaking the listing."""
    text = json.dumps(spec, default=repr)
    result: dict[str, Any] = json.loads(text)
    return result


def _as_text(catalog: Catalog, entries: list[ExpertEntry]) -> list[str]:
    lines = [_nothing(catalog)]
    if entries:
        rows = [_row(catalog, entry) for entry in entries]
        lines = fit_table(rows, line_width(), SHORTEST, DROPPABLE)
    if any(_non_commercial(entry) for entry in entries):
        lines += ["", "(nc): the licence of the weights allows no commercial use."]
    remarks = [
        *(f"{p.label} [{p.status}] {p.reason}" for p in catalog.plugins if p.reason),
        *catalog.notes,
    ]
    return [*lines, *([""] if remarks else []), *(wrap(remark, "  ", "") for remark in remarks)]


def _nothing(catalog: Catalog) -> str:
    tasks = sorted({entry.spec.task for entry in catalog.experts.values()})
    return wrap(
        f"No expert of the {len(catalog.experts)} here is of that kind. Tasks: "
        f"{', '.join(tasks) or 'none'}."
    )


def _non_commercial(entry: ExpertEntry) -> bool:
    weights = entry.spec.weights
    return weights is not None and not weights.commercial_use


def _row(catalog: Catalog, entry: ExpertEntry) -> dict[str, str]:
    spec = entry.spec
    rows, columns = spec.tokens.grid
    licence = spec.weights.licence if spec.weights else "-"
    return {
        "NAME": spec.name,
        "TASK": spec.task,
        "TOKENS": f"{rows}x{columns}x{spec.tokens.width}{' map' * (spec.tokens.kind == 'map')}",
        "IMAGE": f"{spec.image.size[0]}x{spec.image.size[1]}",
        "SIZE": _size(spec.weights.size_mb) if spec.weights else "-",
        "LICENCE": f"(nc) {licence}" if _non_commercial(entry) else licence,
        "DISTRIBUTION": f"{entry.distribution} {entry.version}",
        "STATUS": expert_status(catalog, entry),
    }


def _size(megabytes: float) -> str:
    if megabytes >= 1000:
        return f"{megabytes / 1000:.1f} GB"
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"
