"""Hold a config's arguments against what takes them, before anything is built.

A stage that runs for an hour must not end in a misspelt argument of the next one.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mmengine.registry import Registry
from torch import nn

from tove.errors import ConfigError, close_matches
from tove_plugins import discover_methods

__all__ = [
    "accepted_arguments",
    "check_arguments",
    "check_known",
    "check_model",
    "is_whole",
    "look_up",
]


def is_whole(value: object, least: int = 0) -> bool:
    """Tell whether a config's value is a whole number of at least that; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_known(settings: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse keys that nothing reads.

    Raises:
        ConfigError: a key is not among the known ones.
    """
    for key in settings:
        if key not in known:
            raise ConfigError(f"{where}.{key} is unknown. {close_matches(key, known)}")


def check_arguments(
    target: Callable[..., Any],
    settings: Mapping[str, Any],
    where: str,
    filled: Collection[str] = (),
) -> None:
    """Refuse arguments that a class or function does not take, and words that it does not know.

    Args:
        target: what is going to be called with them; with `**options` in a class, its base's
            arguments count as well, and where no base takes any, so does every name.
        settings: the config's arguments; `type` is none of them.
        where: their place in the config, for messages.
        filled: arguments that the caller gives itself.

    Raises:
        ConfigError: an argument is unknown or missing, a word is none of those it may be, or a
            value is no number where one is wanted and the like.
    """
    parameters = {p.name: p for p in _parameters(target) if p.name not in filled}
    given = {key: value for key, value in settings.items() if key not in ("type", "_scope_")}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_known(given, [*parameters], where)
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if required and name not in given:
            raise ConfigError(f"{where} lacks '{name}', which {target.__name__} needs; add it.")
    hints = _hints(target)
    for key, value in given.items():
        words = _words(hints.get(key))
        if words and isinstance(value, str) and value not in words:
            raise ConfigError(
                f"{where}.{key} is {value!r}, but it must be one of {', '.join(map(repr, words))}."
            )
        if not _fits(value, hints.get(key)):
            raise ConfigError(f"{where}.{key} is {value!r}, but it must be {_told(hints[key])}.")


def accepted_arguments(target: Callable[..., Any]) -> set[str] | None:
    """Return the names of the arguments that a class or function takes; None if it takes any."""
    parameters = list(_parameters(target))
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} | {"type"}


def look_up(registry: Registry, name: object, where: str) -> Any:  # noqa: ANN401
    """Return what a registry has under a `type`; what is no name passes through.

    Raises:
        ConfigError: the name is unknown, or missing.
    """
    if name is None:
        raise ConfigError(f"{where} of the config has no 'type'.")
    if not isinstance(name, str):
        return name
    found = registry.get(name)
    if found is None:
        known = set(registry.module_dict) | set(
            registry.parent.module_dict if registry.parent else ()
        )
        # It may be of a package whose plugin did not load: only that plugin could have told.
        told = [f"{where}.type is '{name}', which is unknown.", close_matches(name, known)]
        raise ConfigError(" ".join([*told, *discover_methods().causes(name)]))
    return found


def _parameters(target: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """Yield a target's own parameters; those behind a class's `**options` in its bases too."""
    if not inspect.isclass(target):
        yield from inspect.signature(target).parameters.values()
        return
    options = None
    for cls in inspect.getmro(target):
        if "__init__" not in vars(cls):
            continue
        if cls in (nn.Module, object):  # take nothing: options that came so far go elsewhere
            break
        own = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
        yield from (p for p in own if p.kind is not p.VAR_KEYWORD)
        options = next((p for p in own if p.kind is p.VAR_KEYWORD), None)
        if options is None:
            return
    if options is not None:
        yield options


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # research code whose annotations do not resolve
        return {}


_PLAIN = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    type(None): "None",
}


def _fits(value: Any, hint: Any) -> bool:  # noqa: ANN401 - any config value, any annotation
    """Tell whether a value is of an annotation's kind; all are of one that holds others."""
    parts = _parts(hint)
    if not all(part in _PLAIN or get_origin(part) is Literal for part in parts):
        return True
    if isinstance(value, bool):
        return bool in parts or any(value in get_args(part) for part in parts)
    if isinstance(value, int) and float in parts:
        return True
    kinds = tuple(part for part in parts if part in _PLAIN)
    return isinstance(value, kinds) or any(value in get_args(part) for part in parts)


def _told(hint: Any) -> str:  # noqa: ANN401 - an annotation
    words = [_PLAIN[part] for part in _parts(hint) if part in _PLAIN]
    words += [repr(word) for part in _parts(hint) for word in get_args(part)]
    return " or ".join(words)


def _parts(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 - an annotation
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _words(hint: Any) -> tuple[str, ...]:  # noqa: ANN401 - an annotation
    """Give the words that an annotation allows; none where any string will do."""
    parts = _parts(hint)
    if str in parts:
        return ()
    return tuple(
        word
        for part in parts
        if get_origin(part) is Literal
        for word in get_args(part)
        if isinstance(word, str)
    )


def check_model(model: Callable[..., Any], settings: Mapping[str, Any], where: str) -> None:
    """Check a model's arguments, and those of the parts that it says it builds itself.

    Args:
        model: its class. `given_later` of it, if there, names arguments that are no config's;
            `sections` maps an argument to the class that it is the arguments of and to the names
            that the model gives that class itself.
        settings: the arguments.
        where: their place in the config.
    """
    check_arguments(model, settings, where, getattr(model, "given_later", ()))
    for name, (part, given_by_model) in getattr(model, "sections", {}).items():
        section = settings.get(name)
        if isinstance(section, Mapping):
            check_arguments(part, section, f"{where}.{name}", given_by_model)
