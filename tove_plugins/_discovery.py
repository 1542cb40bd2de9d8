"""Find the plugins of this environment and put their experts into one catalog.

Nothing is first-wins: a name that two plugins claim belongs to neither until one is blocked.
"""

import importlib
import importlib.util
import math
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any

from tove_plugins._catalog import Catalog, ExpertEntry, PluginRecord, mend_conflict
from tove_plugins._hooks import ENTRY_POINT_GROUP
from tove_plugins._loading import LoadedPlugin, PluginSource, load_plugin
from tove_plugins._requirements import SDK_DISTRIBUTION

__all__ = ["discover"]

BLOCK = "TOVE_BLOCK_PLUGINS"
LOAD = "TOVE_LOAD_PLUGINS"
TIMEOUT = "TOVE_PLUGIN_TIMEOUT"
DEFAULT_SECONDS = 20.0
MOST_SECONDS = 86_400.0  # the system's timers take no number of any size
# Entry points exist only after an installation, and a bare checkout must work: known by its name.
BUILTIN = EntryPoint(name="builtin", value="tove_experts.plugin", group=ENTRY_POINT_GROUP)

_catalogs: dict[tuple[object, ...], Catalog] = {}


def discover(*, refresh: bool = False) -> Catalog:
    """List the experts of all plugins; never raises for a plugin's sake.

    The environment chooses among plugins, by plugin or distribution name, separated by commas:
    TOVE_BLOCK_PLUGINS leaves those out, TOVE_LOAD_PLUGINS (if not empty) leaves all others out.

    Args:
        refresh: Look again, after a `pip install` in a running process for example.
    """
    key = (_names(BLOCK), _names(LOAD), tuple(sys.path))
    if refresh or key not in _catalogs:
        importlib.invalidate_caches()
        _catalogs[key] = _discover()
    return _catalogs[key]


def _discover() -> Catalog:
    notes: list[str] = []
    sources = _find_sources(notes)
    notes += _unknown_names(sources)
    seconds = _seconds(notes)
    loaded = [(source, _load(source, seconds)) for source in sources]
    return _catalog(loaded, tuple(notes))


def _load(source: PluginSource, seconds: float) -> LoadedPlugin:
    mine = {_normal(source.name), _normal(source.distribution)}
    if mine & _names(BLOCK):
        return LoadedPlugin((), "blocked", f"{BLOCK} names it.")
    if _names(LOAD) and not mine & _names(LOAD):
        return LoadedPlugin((), "blocked", f"{LOAD} is set and does not name it.")
    start = time.perf_counter()
    loaded = load_plugin(source, seconds)
    return replace(loaded, seconds=time.perf_counter() - start)


def _find_sources(notes: list[str]) -> list[PluginSource]:
    sources = [PluginSource(e, *_distribution(e)) for e in _entry_points(notes)]
    sources.sort(key=lambda s: (s.distribution, s.name, s.entry_point.value))
    if importlib.util.find_spec(BUILTIN.module.partition(".")[0]) is None:
        return sources
    builtin = PluginSource(BUILTIN, "tove_plugins", _own_version())
    installed = (BUILTIN.name, SDK_DISTRIBUTION)  # another form of the same plugin
    others = [s for s in sources if (s.name, _normal(s.distribution)) != installed]
    return [builtin, *others]


def _entry_points(notes: list[str]) -> list[EntryPoint]:
    try:
        return list(metadata.entry_points(group=ENTRY_POINT_GROUP))
    except Exception:  # one distribution's broken metadata must not hide all the others
        found: list[EntryPoint] = []
        for distribution in metadata.distributions():
            try:
                found += distribution.entry_points.select(group=ENTRY_POINT_GROUP)
            except Exception as error:
                notes.append(
                    f"The entry points of a distribution ({distribution}) cannot be read: {error}."
                )
        return found


def _catalog(loaded: list[tuple[PluginSource, LoadedPlugin]], notes: tuple[str, ...]) -> Catalog:
    claims: dict[str, list[ExpertEntry]] = defaultdict(list)
    for source, plugin in loaded:
        for spec in plugin.specs:
            entry = ExpertEntry(spec, source.distribution, source.version, source.name)
            claims[spec.name].append(entry)
    experts = {name: entries[0] for name, entries in sorted(claims.items()) if len(entries) == 1}
    contested = {name: tuple(entries) for name, entries in claims.items() if len(entries) > 1}
    records = tuple(_record(source, plugin, contested) for source, plugin in loaded)
    return Catalog(experts, records, contested, notes)


def _record(
    source: PluginSource, plugin: LoadedPlugin, contested: Mapping[str, tuple[ExpertEntry, ...]]
) -> PluginRecord:
    free = tuple(spec.name for spec in plugin.specs if spec.name not in contested)
    record = PluginRecord(
        source.name,
        source.distribution,
        source.version,
        plugin.status,
        plugin.reason,
        free,
        source.entry_point.value,
        round(plugin.seconds, 3),
    )
    taken = [spec.name for spec in plugin.specs if spec.name in contested]
    if not taken:
        return record
    sentences = [_conflict(name, contested[name]) for name in taken]
    reason = " ".join(filter(None, [*sentences, plugin.reason]))
    return replace(record, status="conflict", reason=reason)


def _conflict(name: str, claimants: tuple[ExpertEntry, ...]) -> str:
    return (
        f"'{name}' is claimed by {' and by '.join(c.origin for c in claimants)}; "
        f"{mend_conflict(claimants)}."
    )


def _unknown_names(sources: Iterable[PluginSource]) -> list[str]:
    known = {name for s in sources for name in (_normal(s.name), _normal(s.distribution))}
    return [
        f"{variable} names '{name}', which is neither a plugin nor a distribution here "
        f"(known: {', '.join(sorted(known)) or 'none'})."
        for variable in (BLOCK, LOAD)
        for name in sorted(_names(variable) - known)
    ]


def _names(variable: str) -> frozenset[str]:
    names = os.environ.get(variable, "").split(",")
    return frozenset(_normal(name) for name in names if name.strip())


def _seconds(notes: list[str]) -> float:
    """Give the limit that loading a plugin has; 0 or less is none."""
    text = os.environ.get(TIMEOUT, "")
    if not text:
        return DEFAULT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        notes.append(
            f"{TIMEOUT} is {text!r}; give a number of seconds, or 0 for no limit. "
            f"{DEFAULT_SECONDS:g} is used."
        )
        return DEFAULT_SECONDS
    if seconds > MOST_SECONDS:
        notes.append(f"{TIMEOUT} is {text!r}; {MOST_SECONDS:g}, a day, is the most and is used.")
    return min(seconds, MOST_SECONDS)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _distribution(entry_point: EntryPoint) -> tuple[str, str]:
    """Give the name and version of the distribution, its metadata being parsed once only."""
    try:
        told: Any = entry_point.dist.metadata if entry_point.dist else {}
        return told["Name"] or "unknown", told["Version"] or "unknown"
    except Exception:  # a stranger's metadata, without a name perhaps
        return "unknown", "unknown"


def _own_version() -> str:
    try:
        return metadata.version(SDK_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+checkout"
