"""Load one plugin: import it, let pluggy check its hook, take its specs, and contain what fails."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from itertools import islice

import pluggy

from tove_plugins._catalog import Status
from tove_plugins._contain import TookTooLong, contained
from tove_plugins._errors import ExpertSpecError
from tove_plugins._hooks import HOOK_NAME, PROJECT, ExpertHooks
from tove_plugins._requirements import distribution_asks_for_newer_sdk
from tove_plugins.specs import API_VERSION, ExpertSpec

__all__ = ["LoadedPlugin", "PluginSource", "load_plugin"]

MAX_EXPERTS = 10_000  # a plugin that yields for ever is named rather than waited for


@dataclass(frozen=True, slots=True)
class PluginSource:
    """Where a plugin is declared: an entry point and the distribution that holds it."""

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

    specs: tuple[ExpertSpec, ...]
    status: Status
    reason: str
    seconds: float = 0.0


def load_plugin(source: PluginSource, seconds: float) -> LoadedPlugin:
    """Load a plugin; whatever it does, the result says so and nothing is raised."""
    had_torch = "torch" in sys.modules
    hang = (
        f"plugin '{source.name}' of {source.distribution} {source.version} hangs while it is "
        f"discovered; stop this process and set TOVE_BLOCK_PLUGINS={source.name}"
    )
    outcome = contained(lambda: _collect_specs(source.entry_point), seconds, hang)
    if outcome.value is None:
        return _failed(source, outcome.error)
    specs = tuple(spec for spec in outcome.value if spec.api <= API_VERSION)
    newer = [spec for spec in outcome.value if spec.api > API_VERSION]
    remarks = []
    if newer:
        remarks.append(_asks_for_newer(newer))
    if outcome.printed.strip():
        remarks.append("It prints while it is discovered; the text was kept out of stdout.")
    if "torch" in sys.modules and not had_torch:
        remarks.append(
            "It imports torch while it is discovered, which slows every listing; its author "
            "should leave that to the factory."
        )
    return LoadedPlugin(specs, "incompatible" if newer else "active", " ".join(remarks))


def _collect_specs(entry_point: EntryPoint) -> list[ExpertSpec]:
    # One manager a plugin: a plain shared one stops at the first broken plugin.
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(ExpertHooks)
    plugin = entry_point.load()
    manager.register(plugin, entry_point.name)
    manager.check_pending()
    if not manager.hook.tove_experts.get_hookimpls():
        raise ExpertSpecError(
            f"'{entry_point.value}' has no function {HOOK_NAME}() marked with "
            "@tove_plugins.hookimpl"
        )
    results = manager.hook.tove_experts()
    if not results:
        raise ExpertSpecError(f"its {HOOK_NAME}() returned None instead of ExpertSpecs")
    return _checked(results[0])


def _checked(result: object) -> list[ExpertSpec]:
    if isinstance(result, str | bytes | ExpertSpec) or not isinstance(result, Iterable):
        raise ExpertSpecError(
            f"its {HOOK_NAME}() returned a {type(result).__name__} instead of a list of ExpertSpecs"
        )
    specs: dict[str, ExpertSpec] = {}
    for number, spec in enumerate(islice(result, MAX_EXPERTS + 1), start=1):
        if number > MAX_EXPERTS:
            raise ExpertSpecError(f"its {HOOK_NAME}() yielded more than {MAX_EXPERTS} items")
        if not isinstance(spec, ExpertSpec):
            raise ExpertSpecError(
                f"item {number} of its {HOOK_NAME}() is a {type(spec).__name__} instead of an "
                "ExpertSpec"
            )
        if spec.name in specs:
            raise ExpertSpecError(f"its {HOOK_NAME}() yielded the name {spec.name!r} twice")
        specs[spec.name] = spec
    return list(specs.values())


def _asks_for_newer(specs: list[ExpertSpec]) -> str:
    names = ", ".join(repr(spec.name) for spec in specs)
    highest = max(spec.api for spec in specs)
    return (
        f"{names} asks for API {highest} while this tove_plugins speaks API {API_VERSION}; "
        "upgrade it: pip install -U tove_plugins."
    )


def _failed(source: PluginSource, error: BaseException | None) -> LoadedPlugin:
    newer = distribution_asks_for_newer_sdk(source.entry_point)
    if newer:
        reason = f"{_sentence(error)} It needs {newer}; mend it with: pip install -U '{newer}'."
        return LoadedPlugin((), "incompatible", reason)
    return LoadedPlugin((), "error", _sentence(error))


def _sentence(error: BaseException | None) -> str:
    """Say in a sentence what stopped a plugin, whatever its exception's own text does."""
    try:
        text = " ".join(str(error).split()).rstrip(".")
    except Exception:
        text = ""
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        return f"It called sys.exit({text}) while it was discovered."
    if isinstance(error, TookTooLong):
        return f"Loading was stopped: {text} (TOVE_PLUGIN_TIMEOUT sets the limit)."
    if isinstance(error, ExpertSpecError):
        return f"Its specs are not usable: {text}."
    if isinstance(error, pluggy.PluginValidationError):
        return (
            f"Its hook does not fit: {text}. Write `def {HOOK_NAME}():` without arguments under "
            "@tove_plugins.hookimpl."
        )
    return f"Loading raised {kind}: {text}." if text else f"Loading raised {kind}."
