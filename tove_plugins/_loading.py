"""Load one plugin: import it, let pluggy check its hook, take its specs, and contain what fails."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from itertools import islice
from typing import Any

import pluggy

from tove_plugins._catalog import Status
from tove_plugins._contain import SuddenExit, TookTooLong, contained
from tove_plugins._errors import SpecError
from tove_plugins._global_state import kept_global_state
from tove_plugins._hooks import PROJECT
from tove_plugins._kinds import KINDS, Kind
from tove_plugins._requirements import distribution_asks_for_newer_sdk

__all__ = ["LoadedPlugin", "PluginSource", "load_plugin"]

MAX_SPECS = 10_000  # a plugin that yields for ever is named rather than waited for


@dataclass(frozen=True, slots=True)
class PluginSource:
    """Where a plugin is declared: its kind, its entry point and the distribution that holds it."""

    kind: Kind[Any]
    entry_point: EntryPoint
    distribution: str
    version: str

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.entry_point.name


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """What loading gave: usable specs, the status and a sentence on it ("" if all is well)."""

    specs: tuple[Any, ...]
    status: Status
    reason: str
    seconds: float = 0.0


def load_plugin(source: PluginSource, seconds: float) -> LoadedPlugin:
    """Load a plugin; whatever it does, the result says so and nothing is raised."""
    had_torch = "torch" in sys.modules
    hang = (
        f"plugin '{source.name}' of {source.distribution} {source.version} hangs or crashes while "
        f"it is discovered; stop this process and set TOVE_BLOCK_PLUGINS={source.name}"
    )
    outcome = contained(lambda: _collect_specs(source.kind, source.entry_point), seconds, hang)
    if outcome.value is None:
        return _failed(source, outcome.error)
    api = source.kind.api
    specs = tuple(spec for spec in outcome.value if spec.api <= api)
    newer = [spec for spec in outcome.value if spec.api > api]
    remarks = []
    if newer:
        remarks.append(_asks_for_newer(newer, api))
    if outcome.printed.strip():
        remarks.append("It prints while it is discovered; the text was kept out of stdout.")
    if "torch" in sys.modules and not had_torch:
        remarks.append(
            "It imports torch while it is discovered, which slows every listing; its author "
            f"should leave that to the {source.kind.heavy}."
        )
    return LoadedPlugin(specs, "incompatible" if newer else "active", " ".join(remarks))


def _collect_specs(kind: Kind[Any], entry_point: EntryPoint) -> list[Any]:
    with kept_global_state():
        return _called(kind, entry_point)


def _called(kind: Kind[Any], entry_point: EntryPoint) -> list[Any]:
    # One manager a plugin: a plain shared one stops at the first broken plugin.
    manager = pluggy.PluginManager(PROJECT)
    for one in KINDS:  # a module may bring experts and methods, each by an entry point
        manager.add_hookspecs(one.hooks)
    plugin = entry_point.load()
    manager.register(plugin, entry_point.name)
    manager.check_pending()
    hook = getattr(manager.hook, kind.hook)
    if not hook.get_hookimpls():
        raise kind.spec_error(
            f"'{entry_point.value}' has no function {kind.hook}() marked with "
            "@tove_plugins.hookimpl"
        )
    results = hook()
    if not results:
        raise kind.spec_error(f"its {kind.hook}() returned None instead of {kind.spec.__name__}s")
    return _checked(kind, results[0])


def _checked(kind: Kind[Any], result: object) -> list[Any]:
    what = kind.spec.__name__
    if isinstance(result, str | bytes | kind.spec) or not isinstance(result, Iterable):
        raise kind.spec_error(
            f"its {kind.hook}() returned a {type(result).__name__} instead of a list of {what}s"
        )
    specs: list[Any] = []
    claimed: set[str] = set()
    for number, spec in enumerate(islice(result, MAX_SPECS + 1), start=1):
        if number > MAX_SPECS:
            raise kind.spec_error(f"its {kind.hook}() yielded more than {MAX_SPECS} items")
        if not isinstance(spec, kind.spec):
            raise kind.spec_error(
                f"item {number} of its {kind.hook}() is a {type(spec).__name__} instead of "
                f"{'an' if what[0] in 'AEIOU' else 'a'} {what}"
            )
        for claim in kind.claims(spec) if spec.api <= kind.api else (spec.name,):
            if claim in claimed:
                raise kind.spec_error(f"its {kind.hook}() yielded the name {claim!r} twice")
            claimed.add(claim)
        specs.append(spec)
    return specs


def _asks_for_newer(specs: list[Any], api: int) -> str:
    names = ", ".join(repr(spec.name) for spec in specs)
    highest = max(spec.api for spec in specs)
    return (
        f"{names} asks for API {highest} while this tove_plugins speaks API {api}; "
        "upgrade it: pip install -U tove_plugins."
    )


def _failed(source: PluginSource, error: BaseException | None) -> LoadedPlugin:
    sentence = _sentence(error, source.kind)
    newer = distribution_asks_for_newer_sdk(source.entry_point)
    if newer:
        reason = f"{sentence} It needs {newer}; mend it with: pip install -U '{newer}'."
        return LoadedPlugin((), "incompatible", reason)
    return LoadedPlugin((), "error", sentence)


def _sentence(error: BaseException | None, kind: Kind[Any]) -> str:
    """Say in a sentence what stopped a plugin, whatever its exception's own text does."""
    try:
        text = " ".join(str(error).split()).rstrip(".")
    except Exception:
        text = ""
    name = type(error).__name__
    if isinstance(error, SystemExit):
        return f"It called sys.exit({text}) while it was discovered."
    if isinstance(error, SuddenExit):
        return f"It called {text} while it was discovered."
    if isinstance(error, TookTooLong):
        return f"Loading was stopped: {text} (TOVE_PLUGIN_TIMEOUT sets the limit)."
    if isinstance(error, SpecError):
        return f"Its specs are not usable: {text}."
    if isinstance(error, pluggy.PluginValidationError):
        return (
            f"Its hook does not fit: {text}. Write `def {kind.hook}():` without arguments under "
            "@tove_plugins.hookimpl."
        )
    return f"Loading raised {name}: {text}." if text else f"Loading raised {name}."
