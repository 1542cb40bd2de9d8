"""Hold a config's arguments against what takes them, before anything is built.

A stage that runs for an hour must not end in a misspelt argument of the next one.
"""

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mmengine.registry import Registry
from torch import nn

from tove.errors import ConfigError, close_matches
from tove_plugins import discover_methods

__all__ = [
    "Range",
    "accepted_arguments",
    "check_arguments",
    "check_known",
    "check_model",
    "check_stage_names",
    "check_value",
    "fits",
    "hints_of",
    "look_up",
    "parameters_of",
]


_PLAIN_NAME = re.compile(r"[^\W_][\w.+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Range:
    """Which numbers a setting may be, as part of its annotation: `Annotated[float, Range(0, 1)]`.

    Args:
        least: the smallest.
        most: the largest.
        above: `least` itself is too small.
        below: `most` itself is too large.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Tell whether a number is within; nan is not."""
        low = self.least < value if self.above else self.least <= value
        return low and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        low = f"above {self.least:,}" if self.above else f"{self.least:,} or more"
        high = f"below {self.most:,}" if self.below else f"{self.most:,} or less"
        sides = (low, self.least > -math.inf), (high, self.most < math.inf)
        return " and ".join(text for text, there in sides if there)


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
    """Refuse arguments that a class or function does not take, or not of that kind or range.

    Args:
        target: what is going to be called with them; with `**options` in a class, its base's
            arguments count as well, and where no base takes any, so does every name.
        settings: the config's arguments; `type` is none of them.
        where: their place in the config, for messages.
        filled: arguments that the caller gives itself.

    Raises:
        ConfigError: an argument is unknown or missing, or not what its annotation asks for.
    """
    parameters = {p.name: p for p in parameters_of(target) if p.name not in filled}
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
    hints = hints_of(target)
    for key, value in given.items():
        check_value(value, hints.get(key, Any), f"{where}.{key}")


def check_value(value: Any, hint: Any, where: str) -> None:  # noqa: ANN401 - any config value
    """Refuse a value that is not what an annotation asks for.

    Args:
        value: the config's.
        hint: the annotation; numbers of a range are `Annotated[int, Range(1)]`.
        where: the value's place in the config.

    Raises:
        ConfigError: it is of another kind, out of the range, or none of the words.
    """
    if not fits(value, hint):
        raise ConfigError(f"{where} is {value!r}, but it must be {_described(hint)}.")


def check_stage_names(names: Sequence[object]) -> None:
    """Refuse names of stages that are no names of folders of their own.

    Raises:
        ConfigError: there is none, one is no plain name, or two are the same but for capitals.
    """
    if not names:
        raise ConfigError("`stages` of the config is empty, so there is nothing to run; list some.")
    for name in names:
        if not (isinstance(name, str) and _PLAIN_NAME.fullmatch(name)):
            raise ConfigError(
                f"A stage is named {name!r}, but the name is also that of its folder; give "
                "letters, digits, '_', '-', '+' and '.', a letter or digit first, 100 at most."
            )
    small = [str(name).lower() for name in names]
    if len(set(small)) < len(small):
        raise ConfigError(
            f"Each entry of `stages` needs a name of its own, but they are {[*names]}; it is also "
            "the name of the stage's folder."
        )


def accepted_arguments(target: Callable[..., Any]) -> set[str] | None:
    """Return the names of the arguments that a class or function takes; None if it takes any."""
    parameters = list(parameters_of(target))
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} | {"type"}


def look_up(registry: Registry, name: Any, where: str) -> Any:  # noqa: ANN401
    """Return what a registry has under a `type`; a class or function passes through.

    Raises:
        ConfigError: the name is unknown, or missing, or none.
    """
    if name is None:
        raise ConfigError(f"{where} of the config has no 'type'.")
    if callable(name):
        return name
    check_value(name, str, f"{where}.type")
    found = registry.get(name)
    if not callable(found):  # mmengine gives a module, where one has that name
        known = set(registry.module_dict) | set(
            registry.parent.module_dict if registry.parent else ()
        )
        # It may be of a package whose plugin did not load: only that plugin could have told.
        told = [f"{where}.type is '{name}', which is unknown.", close_matches(name, known)]
        raise ConfigError(" ".join([*told, *discover_methods().causes(name)]))
    return found


def parameters_of(target: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """Yield a target's own parameters; those behind a class's `**options` in its bases too.

    `*args` is none: a config gives arguments by their names.
    """
    if not inspect.isclass(target):
        given = inspect.signature(target).parameters.values()
        yield from (p for p in given if p.kind is not p.VAR_POSITIONAL)
        return
    options, told = None, set()
    for cls in inspect.getmro(target):
        if "__init__" not in vars(cls):
            continue
        if cls in (nn.Module, object):  # take nothing: options that came so far go elsewhere
            break
        taken = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
        own = [p for p in taken if p.kind is not p.VAR_POSITIONAL]
        yield from (p for p in own if p.kind is not p.VAR_KEYWORD and p.name not in told)
        told |= {parameter.name for parameter in own}
        options = next((p for p in own if p.kind is p.VAR_KEYWORD), None)
        if options is None:
            return
    if options is not None:
        yield options


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of what a class or function takes, a class's bases included."""
    makers = [target]
    if inspect.isclass(target):
        own = [vars(cls)["__init__"] for cls in inspect.getmro(target) if "__init__" in vars(cls)]
        makers = [maker for maker in reversed(own) if inspect.isfunction(maker)]
    hints: dict[str, Any] = {}
    for maker in makers:
        names = getattr(inspect.unwrap(maker), "__globals__", {})
        for name, annotation in getattr(maker, "__annotations__", {}).items():
            one = SimpleNamespace(__annotations__={name: annotation})
            # Names of research code, or for type checkers alone, do not resolve.
            with contextlib.suppress(NameError, TypeError, AttributeError, SyntaxError):
                hints |= get_type_hints(one, names, include_extras=True)
    return hints


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    dict: "a dict",
    type(None): "None",
    nn.Module: "a module",
}
_LISTS = (list, tuple, Sequence)


def fits(value: Any, hint: Any) -> bool:  # noqa: ANN401 - any config value, any annotation
    """Tell whether a value is what an annotation asks for.

    Every value fits an annotation that is not known here, such as a class of research code.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in inner)
    if origin is Annotated:
        ranges = [mark for mark in inner[1:] if isinstance(mark, Range)]
        return fits(value, inner[0]) and all(mark.holds(value) for mark in ranges)
    if origin is Literal:
        return any(type(value) is type(word) and value == word for word in inner)
    if origin in _LISTS:
        items = isinstance(value, list | tuple)
        if items and origin is tuple and ... not in inner:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return items and all(fits(item, inner[0]) for item in value)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < math.inf  # neither nan nor an infinity is a setting
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(v, inner[1]) for v in value.values())
    if hint is Mapping:
        hint = dict
    if hint in _KINDS:
        return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    return True


def _described(hint: Any) -> str:  # noqa: ANN401 - an annotation
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_described(part) for part in inner)
    if origin is Annotated:
        ranges = [f" ({mark})" for mark in inner[1:] if isinstance(mark, Range)]
        return "".join([_described(inner[0]), *ranges])
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is tuple and ... not in inner:
        return f"a list of {len(inner)}: {', '.join(map(_described, inner))}"
    if origin in _LISTS:
        return "a list" if inner[0] is Any else f"a list, each entry {_described(inner[0])}"
    if origin in (dict, Mapping):
        each = _described(inner[1])
        return "a dict" if inner[1] is Any else f"a dict, each entry {each}"
    return _KINDS.get(hint, str(hint))


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
