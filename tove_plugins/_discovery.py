"""Find the plugins of this environment and put what they bring into a catalog of its kind.

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
from typing import Any, TypeVar, cast

from tove_plugins._catalog import Catalog, MethodCatalog, PluginRecord, mend_conflict
from tove_plugins._kinds import EXPERTS, KINDS, METHODS, Kind
from tove_plugins._loading import LoadedPlugin, PluginSource, load_plugin
from tove_plugins._requirements import SDK_DISTRIBUTION

__all__ = ["discover", "discover_methods"]

C = TypeVar("C")

BLOCK = "TOVE_BLOCK_PLUGINS"
LOAD = "TOVE_LOAD_PLUGINS"
TIMEOUT = "TOVE_PLUGIN_TIMEOUT"
DEFAULT_SECONDS = 20.0
_UNKNOWN = "unknown"  # a distribution whose metadata does not tell
MOST_SECONDS = 86_400.0  # the system's timers take no number of any size

_catalogs: dict[tuple[object, ...], object] = {}


def discover(*, refresh: bool = False) -> Catalog:
    """List the experts of all plugins; never raises for a plugin's sake.

    The environment chooses among plugins, by plugin or distribution name, separated by commas:
    TOVE_BLOCK_PLUGINS leaves those out, TOVE_LOAD_PLUGINS (if not empty) leaves all others out.

    Args:
        refresh: Look again, after a `pip install` in a running process for example.
    """
    return _remembered(EXPERTS, refresh)


def discover_methods(*, refresh: bool = False) -> MethodCatalog:
    """List the methods of all plugins, as `discover` lists the experts; nothing is imported."""
    return _remembered(METHODS, refresh)


def _remembered(kind: Kind[C], refresh: bool) -> C:
    key = (kind.group, _names(BLOCK), _names(LOAD), tuple(sys.path))
    if refresh or key not in _catalogs:
        importlib.invalidate_caches()
        _catalogs[key] = _discover(kind)
    return cast(C, _catalogs[key])


def _discover(kind: Kind[C]) -> C:
    notes: list[str] = []
    sources = {one.group: _find_sources(one, notes) for one in KINDS}
    notes += _unknown_names(source for found in sources.values() for source in found)
    seconds = _seconds(notes)
    loaded = [(source, _load(source, seconds)) for source in sources[kind.group]]
    return _catalog(kind, loaded, tuple(dict.fromkeys(notes)))


def _load(source: PluginSource, seconds: float) -> LoadedPlugin:
    mine = {_normal(source.name), _normal(source.distribution)}
    if mine & _names(BLOCK):
        return LoadedPlugin((), "blocked", f"{BLOCK} names it.")
    if _names(LOAD) and not mine & _names(LOAD):
        return LoadedPlugin((), "blocked", f"{LOAD} is set and does not name it.")
    start = time.perf_counter()
    loaded = load_plugin(source, seconds)
    return replace(loaded, seconds=time.perf_counter() - start)


def _find_sources(kind: Kind[Any], notes: list[str]) -> list[PluginSource]:
    found = _entry_points(kind.group, notes)
    sources = _newest([PluginSource(kind, e, *_distribution(e)) for e in found], notes)
    sources.sort(key=lambda s: (s.distribution, s.name, s.entry_point.value))
    builtin = kind.builtin
    if builtin is None or importlib.util.find_spec(builtin.module.partition(".")[0]) is None:
        return sources
    own = PluginSource(kind, builtin, "tove_plugins", _own_version())
    installed = (builtin.name, SDK_DISTRIBUTION)  # another form of the same plugin
    others = [s for s in sources if (s.name, _normal(s.distribution)) != installed]
    return [own, *others]


def _newest(sources: list[PluginSource], notes: list[str]) -> list[PluginSource]:
    """Leave out what metadata that an upgrade left behind says; else a plugin would meet itself."""
    versions: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        versions[_normal(source.distribution)].add(source.version)
    doubled = {name: v for name, v in versions.items() if len(v) > 1 and name != _UNKNOWN}
    newest = {name: max(found, key=_as_version) for name, found in doubled.items()}
    for source in sources:
        name = _normal(source.distribution)
        if name in doubled and source.version != newest[name]:
            notes.append(
                f"{source.distribution} {source.version} was left behind by {newest[name]} and is "
                f"not looked at; delete its .dist-info folder in {_place(source.entry_point)}."
            )
    kept = [s for s in sources if s.version == newest.get(_normal(s.distribution), s.version)]
    # One version may be told twice, by folders whose names are written otherwise.
    once = {(_normal(s.distribution), s.name, s.entry_point.value): s for s in kept}
    return list(once.values())


def _as_version(text: str) -> Any:  # noqa: ANN401 - packaging's, which is seldom needed here
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")


def _place(entry_point: EntryPoint) -> str:
    return str(entry_point.dist.locate_file("")) if entry_point.dist else "site-packages"


def _entry_points(group: str, notes: list[str]) -> list[EntryPoint]:
    try:
        return list(metadata.entry_points(group=group))
    except Exception:  # one distribution's broken metadata must not hide all the others
        found: list[EntryPoint] = []
        for distribution in metadata.distributions():
            try:
                found += distribution.entry_points.select(group=group)
            except Exception as error:
                notes.append(
                    f"The entry points of a distribution ({distribution}) cannot be read: {error}."
                )
        return found


def _catalog(
    kind: Kind[C], loaded: list[tuple[PluginSource, LoadedPlugin]], notes: tuple[str, ...]
) -> C:
    claims: dict[str, list[Any]] = defaultdict(list)
    for source, plugin in loaded:
        for spec in plugin.specs:
            entry = kind.entry(spec, source.distribution, source.version, source.name)
            for claim in kind.claims(spec):
                claims[claim].append(entry)
    contested = {name: tuple(entries) for name, entries in claims.items() if len(entries) > 1}
    single = {entries[0].spec.name: entries[0] for entries in claims.values() if len(entries) == 1}
    free = {
        name: entry
        for name, entry in sorted(single.items())
        if contested.keys().isdisjoint(kind.claims(entry.spec))
    }
    records = tuple(_record(source, plugin, contested) for source, plugin in loaded)
    return kind.catalog(free, records, contested, notes)


def _record(
    source: PluginSource, plugin: LoadedPlugin, contested: Mapping[str, tuple[Any, ...]]
) -> PluginRecord:
    kind = source.kind
    taken = [claim for spec in plugin.specs for claim in kind.claims(spec) if claim in contested]
    record = PluginRecord(
        source.name,
        source.distribution,
        source.version,
        plugin.status,
        plugin.reason,
        tuple(s.name for s in plugin.specs if not set(taken).intersection(kind.claims(s))),
        source.entry_point.value,
        round(plugin.seconds, 3),
        kind.noun,
    )
    if not taken:
        return record
    sentences = [_conflict(name, contested[name]) for name in taken]
    reason = " ".join(filter(None, [*sentences, plugin.reason]))
    return replace(record, status="conflict", reason=reason)


def _conflict(name: str, claimants: tuple[Any, ...]) -> str:
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
        return told["Name"] or _UNKNOWN, told["Version"] or _UNKNOWN
    except Exception:  # a stranger's metadata, without a name perhaps
        return _UNKNOWN, _UNKNOWN


def _own_version() -> str:
    try:
        return metadata.version(SDK_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+checkout"
