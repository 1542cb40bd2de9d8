"""`list`: the experts of this environment, and a sentence for each plugin that is not well."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

from tove_plugins._catalog import Catalog, ExpertEntry, PluginRecord
from tove_plugins._commands._finding import expert_status, find_experts
from tove_plugins._commands._text import fit_table, line_width, print_lines, safe_repr, wrap
from tove_plugins._discovery import BUILTIN
from tove_plugins.specs import API_VERSION

__all__ = ["add_arguments", "run"]

SHORTEST = {"DISTRIBUTION": 12, "LICENCE": 10, "TASK": 9}
LONG = 0.2  # seconds to load a plugin; the listing of a hundred takes less than half of one
COLUMNS = ("NAME", "TASK", "TOKENS", "IMAGE", "SIZE", "LICENCE", "DISTRIBUTION", "STATUS")
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
        print_lines(_as_text(catalog, entries))
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
        "experts": [_expert_as_json(catalog, entry) for entry in entries],
        "plugins": [_jsonable(asdict(record)) for record in catalog.plugins],
        "notes": list(catalog.notes),
    }


def _expert_as_json(catalog: Catalog, entry: ExpertEntry) -> dict[str, Any]:
    try:
        spec = _jsonable(entry.spec.as_dict())
        json.dumps(spec)  # an int of five thousand digits is one that Python does not write
    except Exception as error:
        spec = {"name": entry.spec.name, "not_shown": type(error).__name__}
    return {
        **spec,
        "distribution": _jsonable(entry.distribution),
        "version": _jsonable(entry.version),
        "plugin": entry.plugin,
        "status": expert_status(catalog, entry),
    }


def _jsonable(value: Any) -> Any:  # noqa: ANN401 - a stranger's option may be anything
    """Give what JSON knows, and the repr of what it does not: an object, a key of two numbers."""
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, str) else safe_repr(key): _jsonable(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    plain = isinstance(value, str | int | None) or (
        isinstance(value, float) and math.isfinite(value)
    )
    return value if plain else safe_repr(value)


def _as_text(catalog: Catalog, entries: list[ExpertEntry]) -> list[str]:
    lines = [_nothing(catalog)]
    if entries:
        rows = [_contained_row(catalog, entry) for entry in entries]
        lines = fit_table(rows, line_width(), SHORTEST, DROPPABLE)
    if any(_non_commercial(entry) for entry in entries):
        lines += ["", "(nc): the licence of the weights allows no commercial use."]
    remarks = [
        *(f"{p.label} [{p.status}] {p.reason}" for p in catalog.plugins if p.reason),
        *(_slow(p) for p in catalog.plugins if p.seconds > LONG and p.module != BUILTIN.value),
        *catalog.notes,
    ]
    return [*lines, *([""] if remarks else []), *(wrap(remark, "  ", "") for remark in remarks)]


def _slow(plugin: PluginRecord) -> str:
    return (
        f"{plugin.label} took {plugin.seconds:.1f} s to load, for which every listing and every "
        "run waits; its author should leave to the factory what is not needed to say the specs."
    )


def _nothing(catalog: Catalog) -> str:
    tasks = sorted({entry.spec.task for entry in catalog.experts.values()})
    return wrap(
        f"No expert of the {len(catalog.experts)} here is of that kind. Tasks: "
        f"{', '.join(tasks) or 'none'}."
    )


def _non_commercial(entry: ExpertEntry) -> bool:
    weights = entry.spec.weights
    return weights is not None and not weights.commercial_use


def _contained_row(catalog: Catalog, entry: ExpertEntry) -> dict[str, str]:
    """Give an expert's row; one that cannot be written must not take the others with it."""
    try:
        return _row(catalog, entry)
    except Exception as error:
        told = {"NAME": entry.spec.name, "STATUS": f"not shown: {type(error).__name__}"}
        return dict.fromkeys(COLUMNS, "?") | told


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
