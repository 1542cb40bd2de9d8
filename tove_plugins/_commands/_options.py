"""The parameters of a factory, read from its signature and its docstring."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from tove_plugins._building import import_named
from tove_plugins._commands._text import wrap
from tove_plugins.specs import ExpertSpec

__all__ = ["describe_options"]

NOT_OPTIONS = ("spec", "weights")  # what the SDK passes
PARAMETER = re.compile(r" {4}(\w+)(?: \([^)]*\))?: (.*)")


def describe_options(spec: ExpertSpec) -> Iterator[str]:
    """Give lines on what a config may set besides the type.

    Raises:
        ExpertBuildError: The factory cannot be imported.
    """
    factory = import_named(spec.factory, f"factory {spec.factory} of expert '{spec.name}'")
    parameters = inspect.signature(factory).parameters
    described = _described(factory)
    yield f"Options of {spec.factory}:"
    options = [p for name, p in parameters.items() if name not in NOT_OPTIONS]
    if not options:
        yield "  none"
    for parameter in options:
        if parameter.name in spec.options:
            parameter = parameter.replace(default=spec.options[parameter.name])
        yield f"  {_written(parameter)}"
        if parameter.name in described:
            yield wrap(described[parameter.name], " " * 6)


def _written(parameter: inspect.Parameter) -> str:
    """Write a parameter as in a signature, its annotation without quotes."""
    annotation, default = parameter.annotation, parameter.default
    if not isinstance(annotation, str):
        annotation = inspect.formatannotation(annotation)
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    text = stars.get(parameter.kind.name, "") + parameter.name
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {annotation}"
    return text if default is inspect.Parameter.empty else f"{text} = {default!r}"


def _described(factory: Callable[..., Any]) -> dict[str, str]:
    """Read the section "Args:" of a Google docstring, of the class or of its constructor."""
    found: dict[str, str] = {}
    for document in (factory.__doc__, getattr(factory, "__init__", factory).__doc__):
        section = inspect.cleandoc(document or "").partition("Args:\n")[2].partition("\n\n")[0]
        name = ""
        for line in section.splitlines():
            match = PARAMETER.fullmatch(line)
            if match:
                name = match[1]
                found[name] = match[2]
            elif name:
                found[name] += f" {line.strip()}"
    return found
