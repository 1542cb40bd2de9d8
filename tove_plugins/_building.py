"""Build an expert from its spec: requirements, weights and digest first, then its factory."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tove_plugins._discovery import discover
from tove_plugins._errors import ExpertBuildError
from tove_plugins._frozen import thaw
from tove_plugins._global_state import kept_global_state
from tove_plugins._requirements import unmet_requirements
from tove_plugins._resources import find_weights, sha256_of
from tove_plugins._weights_files import weights_problem
from tove_plugins.specs import ExpertSpec

if TYPE_CHECKING:
    from torch import nn

_MOST = 600  # characters of an error that is passed on

__all__ = [
    "build_expert",
    "build_from_spec",
    "check_build",
    "expert_factory",
    "resolve_expert",
]


def build_expert(
    name: str,
    *,
    tiny: bool = False,
    weights: str | Path | None = None,
    sha256: str | None = None,
    **options: object,
) -> nn.Module:
    """Build an installed expert. Mode, device and dtype are left as the factory made them.

    Args:
        name: The expert's name.
        tiny: Build the small offline form with random weights.
        weights: A path, "pkg:..." or "hub:..." in place of the spec's own; its digest is not
            compared, as the spec's belongs to the spec's file.
        sha256: The digest that the weights must have, in place of the spec's.
        options: Keyword arguments of the factory, over the spec's.

    Raises:
        ExpertNotAvailable: No active plugin offers it.
        ExpertBuildError: A requirement, the weights, an option or the factory itself failed.
    """
    entry = discover().get(name)
    return build_from_spec(
        entry.spec,
        tiny=tiny,
        weights=weights,
        sha256=sha256,
        options=options,
        origin=entry.origin,
    )


def build_from_spec(
    spec: ExpertSpec,
    *,
    tiny: bool = False,
    weights: str | Path | None = None,
    sha256: str | None = None,
    options: Mapping[str, Any] | None = None,
    origin: str = "a spec that no plugin brought",
) -> nn.Module:
    """Build an expert from a spec that need not be installed; otherwise as `build_expert`."""
    label = f"expert '{spec.name}' ({origin})"
    factory, given, what = _ready(spec, tiny, weights, sha256, options, label)
    expert = _called(factory, given, what, _tiny_hint(given["spec"], tiny, options))
    from torch import nn  # the factory has paid for it by now

    if not isinstance(expert, nn.Module):
        raise ExpertBuildError(
            f"The {what} gave a {type(expert).__name__}; its author should return a "
            "torch.nn.Module."
        )
    return expert


def check_build(
    name: str,
    *,
    tiny: bool = False,
    weights: str | Path | None = None,
    sha256: str | None = None,
    **options: object,
) -> None:
    """Find out whether `build_expert` would go well as far as that can be told without building.

    Requirements, weights and their digest, the factory's import and its options are looked at.

    Raises:
        ExpertNotAvailable: No plugin offers it.
        ExpertBuildError: One of them fails.
    """
    entry = discover().get(name)
    label = f"expert '{name}' ({entry.origin})"
    _ready(entry.spec, tiny, weights, sha256, options, label)


def expert_factory(name: str) -> Callable[..., Any]:
    """Import the factory of an installed expert, which says by its arguments what options it takes.

    Raises:
        ExpertNotAvailable: No active plugin offers it.
        ExpertBuildError: It cannot be imported.
    """
    entry = discover().get(name)
    what = f"factory {entry.spec.factory} of expert '{name}' ({entry.origin})"
    return import_named(entry.spec.factory, what)


def resolve_expert(
    name: str,
    *,
    tiny: bool = False,
    weights: str | Path | None = None,
    sha256: str | None = None,
    **options: object,
) -> ExpertSpec:
    """Give the spec of the build that `build_expert` would make of the same arguments.

    Without `weights` and options it is the installed spec itself, and nothing is imported. With
    them, an expert whose spec names a `resolve` function says what it takes and gives then.

    Raises:
        ExpertNotAvailable: No active plugin offers it.
        ExpertBuildError: A requirement, the weights or an option failed.
    """
    entry = discover().get(name)
    label = f"expert '{name}' ({entry.origin})"
    if entry.spec.resolve and (weights is not None or options):
        _check_requirements(entry.spec, label)
    return _resolved(entry.spec, tiny, weights, options, label)


def _ready(
    spec: ExpertSpec,
    tiny: bool,
    weights: str | Path | None,
    sha256: str | None,
    options: Mapping[str, Any] | None,
    label: str,
) -> tuple[Callable[..., Any], dict[str, Any], str]:
    """Return the factory, what it is to be called with, and how messages name it."""
    _check_requirements(spec, label)
    spec = _resolved(spec, tiny, weights, options, label)
    path = _weights_path(spec, tiny, weights, sha256, label)
    what = f"factory {spec.factory} of {label}"
    factory = import_named(spec.factory, what)
    given = {"spec": spec, "weights": path, **_merged(spec, tiny, options)}
    _check_options(factory, spec.factory, given, label)
    return factory, given, what


def _called(
    function: Callable[..., Any],
    given: Mapping[str, Any],
    what: str,
    hint: str,
    refuses: str | None = None,
) -> Any:  # noqa: ANN401 - a stranger's
    """Call a stranger's function; its error is told by its name, sys.exit() too.

    Args:
        function: a factory or a resolve function.
        given: its arguments.
        what: it is called.
        hint: behind the error.
        refuses: begins what its ValueError and OSError say, where these refuse what was given.
    """
    try:
        with kept_global_state():
            return function(**given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        told = f"The {what} raised {type(error).__name__}"
        if refuses and isinstance(error, ValueError | OSError):
            told = refuses
        raise ExpertBuildError(f"{told}: {brief(error)}{hint}") from error


def _merged(spec: ExpertSpec, tiny: bool, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Gather the factory's keyword arguments: the spec's, the tiny build's, the caller's.

    A factory may change what it is given, so the spec's are copies.
    """
    return {**thaw(spec.options), **(thaw(spec.tiny) if tiny else {}), **(options or {})}


def _resolved(
    spec: ExpertSpec,
    tiny: bool,
    weights: str | Path | None,
    options: Mapping[str, Any] | None,
    label: str,
) -> ExpertSpec:
    """Ask the expert for the spec of this very build, where the caller changes anything."""
    if not spec.resolve or (weights is None and not options):
        return spec
    what = f"resolve function {spec.resolve} of {label}"
    resolve = import_named(spec.resolve, what)
    path = None if weights is None else _weights_path(spec, tiny, weights, None, label)
    given = {"spec": spec, "weights": path, **_merged(spec, tiny, options)}
    _check_options(resolve, spec.resolve, given, label)
    refuses = f"The {label} cannot be built with these options"
    found = _called(resolve, given, what, _tiny_hint(spec, tiny, options), refuses)
    if not isinstance(found, ExpertSpec) or found.name != spec.name:
        raise ExpertBuildError(
            f"The {what} gave {found!r}; its author should return the spec of the same name with "
            "what the options change replaced."
        )
    return found


def brief(error: BaseException) -> str:
    """Give an error's text in one line; torch lists every weight that does not fit."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MOST else f"{text[:_MOST]} ..."


def _tiny_hint(spec: ExpertSpec, tiny: bool, options: Mapping[str, Any] | None) -> str:
    """Say what the small form brought besides the caller's options, where both were given."""
    brought = ", ".join(f"{k}={v!r}" for k, v in spec.tiny.items() if k not in (options or {}))
    if not (tiny and options and brought):
        return ""
    return (
        f" (tiny=True adds {brought}, made for the expert's default model; give what suits yours "
        "beside it, or leave tiny out.)"
    )


def _check_requirements(spec: ExpertSpec, label: str) -> None:
    unmet = unmet_requirements(spec.requires)
    if unmet:
        needs = " and ".join(f"{requirement} ({problem})" for requirement, problem in unmet)
        command = " ".join(f"'{requirement}'" for requirement, _ in unmet)
        raise ExpertBuildError(f"The {label} needs {needs}. Mend it with: pip install {command}")


def _weights_path(
    spec: ExpertSpec,
    tiny: bool,
    override: str | Path | None,
    sha256: str | None,
    label: str,
) -> Path | None:
    if override is None and (tiny or spec.weights is None):
        return None
    source = override if override is not None else spec.weights.source  # type: ignore[union-attr]
    try:
        path = find_weights(source)
    except (FileNotFoundError, ExpertBuildError) as error:
        raise ExpertBuildError(f"The {label} cannot be built. {error}") from error
    if problem := weights_problem(path):
        raise ExpertBuildError(f"The {label} cannot be built. {problem}")
    own = None if override is not None or spec.weights is None else spec.weights.sha256
    declared = own if sha256 is None else str(sha256)
    if declared is not None:
        _check_digest(path, declared, label)
    return path


def _check_digest(path: Path, declared: str, label: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", declared):
        raise ExpertBuildError(
            f"The sha256 {declared!r} given for {label} is no digest; give 64 hexadecimal digits "
            "in lower case, as `sha256sum FILE` prints them."
        )
    found = sha256_of(path)
    if found != declared:
        raise ExpertBuildError(
            f"The weights {path} of {label} have sha256 {found}, not {declared} as was "
            "declared: they are damaged or another version. Delete them and fetch or install them "
            "again; to use them knowingly, give their path as the expert's `weights` and their "
            "own digest as its `sha256`, or none."
        )


def import_named(reference: str, what: str) -> Callable[..., Any]:
    """Import "package.module:attribute"; `what` names it in messages."""
    module_name, _, attributes = reference.partition(":")
    try:
        with kept_global_state():
            found: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        raise ExpertBuildError(
            f"The {what} cannot be imported: there is no module '{error.name}'. Install the "
            "package that brings it."
        ) from error
    except BaseException as error:
        raise ExpertBuildError(
            f"The {what} cannot be imported: {type(error).__name__}: {brief(error)}"
        ) from error
    if not callable(found):
        raise ExpertBuildError(
            f"The {what} is a {type(found).__name__}, which cannot be called; its author should "
            "name a class or a function."
        )
    return found  # type: ignore[no-any-return]


def _check_options(
    function: Callable[..., Any],
    name: str,
    given: Mapping[str, Any],
    label: str,
) -> None:
    """Tell a wrong option from an error inside the factory or resolve function of that name."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: the call itself will tell
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        accepted = [option for option in signature.parameters if option not in ("spec", "weights")]
        raise ExpertBuildError(
            f"The {label} cannot be built with these options: {error}. "
            f"{name} takes: {', '.join(accepted) or 'none'}."
        ) from error
