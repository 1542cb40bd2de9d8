"""`list`: the experts and methods of this environment, and a sentence on plugins not well."""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tove_plugins._catalog import (
    Catalog,
    ExpertEntry,
    Found,
    MethodCatalog,
    MethodEntry,
    PluginRecord,
)
from tove_plugins._commands._finding import find_experts, find_methods
from tove_plugins._commands._text import fit_table, line_width, print_lines, safe_repr, wrap
from tove_plugins._kinds import EXPERTS
from tove_plugins.method_spec import METHOD_API_VERSION
from tove_plugins.specs import API_VERSION

__all__ = ["add_arguments", "run"]

SHORTEST = {"DISTRIBUTION": 12, "LICENCE": 10, "TASK": 9}
LONG = 0.2  # seconds to load a plugin; the listing of a hundred takes less than half of one
COLUMNS = ("NAME", "TASK", "TOKENS", "IMAGE", "SIZE", "LICENCE", "DISTRIBUTION", "STATUS")
DROPPABLE = ("IMAGE", "DISTRIBUTION", "SIZE", "LICENCE")
METHOD_COLUMNS = ("METHOD", "TYPES", "PAPER", "LICENCE", "DISTRIBUTION", "STATUS")
SHORTEST_OF_METHODS = {"DISTRIBUTION": 12, "LICENCE": 10, "TYPES": 16}
DROPPABLE_OF_METHODS = ("LICENCE", "PAPER", "DISTRIBUTION")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only what has every word in its description"
    )
    parser.add_argument("--task", help="only experts of this task, depth say")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(parsed: argparse.Namespace) -> int:
    """List the experts, and the methods where there are any."""
    experts, methods = find_experts(), find_methods()
    chosen = [e for e in experts.every() if _is_wanted(e, parsed.words, parsed.task)]
    named = [e for e in methods.every() if parsed.task is None and _has_words(e, parsed.words)]
    if parsed.json:
        print(json.dumps(_as_json(experts, chosen, methods, named), indent=2))
        return 0
    lines = _table_of_experts(experts, chosen) if chosen or not named else []
    if named:
        lines += [*([""] if lines else []), *_table_of_methods(methods, named)]
    print_lines([*lines, *_remarks(experts, methods)])
    return 0


def _is_wanted(entry: ExpertEntry, words: list[str], task: str | None) -> bool:
    if task is not None and entry.spec.task.lower() != task.lower():
        return False
    return _has_words(entry, words)


def _has_words(entry: ExpertEntry | MethodEntry, words: list[str]) -> bool:
    """Look for every word in what is told of an expert or a method."""
    spec = entry.spec
    told = ("name", "task", "description", "summary", "paper")
    parts = [getattr(spec, part, "") for part in told] + [entry.distribution]
    text = " ".join([*parts, *getattr(spec, "types", ())]).lower()
    return all(word.lower() in text for word in words)


def _as_json(
    experts: Catalog,
    chosen: list[ExpertEntry],
    methods: MethodCatalog,
    named: list[MethodEntry],
) -> dict[str, Any]:
    return {
        "api": API_VERSION,
        "method_api": METHOD_API_VERSION,
        "experts": [_entry_as_json(experts, entry) for entry in chosen],
        "methods": [_entry_as_json(methods, entry) for entry in named],
        "plugins": [_jsonable(asdict(record)) for record in (*experts.plugins, *methods.plugins)],
        "notes": _notes(experts, methods),
    }


def _notes(experts: Catalog, methods: MethodCatalog) -> list[str]:
    return list(dict.fromkeys((*experts.notes, *methods.notes)))


def _entry_as_json(catalog: Found[Any], entry: ExpertEntry | MethodEntry) -> dict[str, Any]:
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
        "status": catalog.status(entry),
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


def _table_of_experts(catalog: Catalog, entries: list[ExpertEntry]) -> list[str]:
    if not entries:
        return [_nothing(catalog)]
    rows = [_contained_row(_row, catalog, entry, COLUMNS) for entry in entries]
    lines = fit_table(rows, line_width(), SHORTEST, DROPPABLE)
    if any(_non_commercial(entry) for entry in entries):
        lines += ["", "(nc): the licence of the weights allows no commercial use."]
    return lines


def _table_of_methods(catalog: MethodCatalog, entries: list[MethodEntry]) -> list[str]:
    rows = [_contained_row(_method_row, catalog, entry, METHOD_COLUMNS) for entry in entries]
    return fit_table(rows, line_width(), SHORTEST_OF_METHODS, DROPPABLE_OF_METHODS)


def _remarks(experts: Catalog, methods: MethodCatalog) -> list[str]:
    """Return a sentence for each plugin that is not well, and for what the environment says."""
    plugins = (*experts.plugins, *methods.plugins)
    own = EXPERTS.builtin.value if EXPERTS.builtin else ""
    remarks = [
        *(f"{p.label} [{p.status}] {p.reason}" for p in plugins if p.reason),
        *(_slow(p) for p in plugins if p.seconds > LONG and p.module != own),
        *_notes(experts, methods),
    ]
    return [*([""] if remarks else []), *(wrap(remark, "  ", "") for remark in remarks)]


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


def _contained_row(
    row: Callable[[Any, Any], dict[str, str]],
    catalog: Found[Any],
    entry: ExpertEntry | MethodEntry,
    columns: Sequence[str],
) -> dict[str, str]:
    """Give an entry's row; one that cannot be written must not take the others with it."""
    try:
        return row(catalog, entry)
    except Exception as error:
        told = {columns[0]: entry.spec.name, "STATUS": f"not shown: {type(error).__name__}"}
        return dict.fromkeys(columns, "?") | told


def _method_row(catalog: MethodCatalog, entry: MethodEntry) -> dict[str, str]:
    spec = entry.spec
    return {
        "METHOD": spec.name,
        "TYPES": ", ".join(spec.types),
        "PAPER": spec.paper or "-",
        "LICENCE": spec.licence,
        "DISTRIBUTION": f"{entry.distribution} {entry.version}",
        "STATUS": catalog.status(entry),
    }


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
        "STATUS": catalog.status(entry),
    }


def _size(megabytes: float) -> str:
    if megabytes >= 1000:
        return f"{megabytes / 1000:.1f} GB"
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"
