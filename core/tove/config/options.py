"""Settings of the command line: KEY=VALUE, as mmengine's users know them, with texts kept whole.

mmengine's own `DictAction` takes every space out of a value, cuts a text at its commas and makes
numbers of names. Here numbers, True, False, None, lists, tuples and dicts are what they are there;
anything else is a text, and so is what stands in quotes or goes to a setting that wants one.
"""

import ast
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from tove import registry
from tove.config.overlay import merged_settings
from tove.config.validation import hints_of, parameters_of
from tove.errors import ConfigError
from tove_plugins import ExpertBuildError, ExpertNotAvailable, check_build, expert_factory

__all__ = ["parse_options", "parse_value", "values_on_the_way"]

_TEXTS = frozenset({"data_root", "work_dir"})
_REGISTRIES = ("DATASETS", "MODELS", "ENCODERS", "LANGUAGE_MODELS", "STAGES", "METRICS")
_LAID_OVER = re.compile(r"(stages\.\d+\.)(model\..+)")
_QUOTED = re.compile(r"""(["'])(.*)\1""", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"
_WORDS = {"true": True, "false": False, "none": None}


def parse_options(options: list[str], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Read "KEY=VALUE" strings.

    Args:
        options: the strings.
        cfg: what they are going to be laid over; it tells which settings want a text.

    Raises:
        ConfigError: an option has no "=".
    """
    found = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"--cfg-options takes KEY=VALUE, but got '{option}'; write for example "
                "data_root=DIR schedule.steps=300. A text with spaces needs quotes: "
                "'KEY=two words'."
            )
        value = parse_value(text)
        quoted = _QUOTED.fullmatch(text)
        if value is not None and value != text and not quoted and _wants_text(cfg, key):
            value = text
        found[key] = value
    return found


def parse_value(text: str) -> Any:  # noqa: ANN401 - any config value
    """Read a value: a number, True, False, None, a list, tuple or dict, or else a text.

    A list may stand without brackets, as in "1,2" and "a,b"; commas between words with spaces, as
    in "red, blue", are a text's.
    """
    stripped = text.strip()
    plain = _plain(stripped)
    if plain is not stripped:
        return plain
    if stripped[:1] + stripped[-1:] in ("()", "[]", "{}"):
        try:
            return ast.literal_eval(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parts = None if stripped[0] == "{" else _split(stripped[1:-1])
        if parts is not None:
            values = _values(parts)
            return tuple(values) if stripped[0] == "(" else values
    parts = _split(stripped)
    if parts is None or len(parts) < 2:
        return text
    values = _values(parts)
    words = any(isinstance(value, str) for value in values)
    return text if words and re.search(r"\s", stripped) else values


def _values(parts: list[str]) -> list[Any]:
    return [parse_value(part) for part in (parts if parts[-1] else parts[:-1])]


def _plain(text: str) -> Any:  # noqa: ANN401
    """Read a number, a word or a quoted text; the same object where it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text == "None" or text.lower() in ("true", "false"):
        return _WORDS[text.lower()]
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted and quoted[1] not in quoted[2] else text


def _split(text: str) -> list[str] | None:
    """Split at the commas outside brackets and quotes; None where those do not match."""
    parts, inside, quote = [""], "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and not parts[-1].strip():
            quote = sign
        elif sign in _OPEN:
            inside += sign
        elif sign in _CLOSE:
            if not inside or _OPEN.index(inside[-1]) != _CLOSE.index(sign):
                return None
            inside = inside[:-1]
        elif sign == "," and not inside:
            parts.append("")
            continue
        parts[-1] += sign
    if inside or quote:
        return None
    return [part.strip() for part in parts]


def values_on_the_way(cfg: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Yield every part of a dotted key with the value that it is looked up in."""
    value: Any = cfg
    for part in key.split("."):
        yield part, value
        if isinstance(value, Mapping) or hasattr(value, "_cfg_dict"):
            value = value.get(part, {})
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return


def _wants_text(cfg: Mapping[str, Any], key: str) -> bool:
    """Tell whether a setting takes a text and neither number nor list, as far as can be known."""
    if key in _TEXTS:
        return True
    laid = _LAID_OVER.fullmatch(key)
    if laid:  # the model's settings, with the stage's own over them
        entry = [*values_on_the_way(cfg, f"{laid[1]}model")][-1][1]
        over = entry.get("model", {}) if isinstance(entry, Mapping) else {}
        cfg, key = {"model": merged_settings(cfg.get("model", {}), over)}, laid[2]
    way = [*values_on_the_way(cfg, key)]
    part, parent = way[-1]
    if part != key.rpartition(".")[2] or not isinstance(parent, Mapping):
        return False
    if part in _TEXTS or part == "type":
        return True
    return any(_only_text(_hint(found, part)) for found in _takers(cfg, way))


def _hint(target: Any, name: str) -> Any:  # noqa: ANN401
    """Return what an argument is annotated as, or else the kind of its default."""
    default = {p.name: p.default for p in parameters_of(target)}.get(name)
    return hints_of(target).get(name, type(default))


def _takers(cfg: Mapping[str, Any], way: Sequence[tuple[str, Any]]) -> Iterator[Any]:
    """Yield what the last setting on the way is an argument of."""
    parent = way[-1][1]
    yield from _classes(parent.get("type"))
    if len(way) > 1:
        section, owner = way[-2]
        for found in _classes(owner.get("type") if isinstance(owner, Mapping) else None):
            if section in getattr(found, "sections", {}):
                yield found.sections[section][0]
    if len(way) == 2:
        stages = [found for entry in cfg.get("stages", ()) for found in _classes(entry.get("type"))]
        yield from (s.reads[way[0][0]] for s in stages if way[0][0] in getattr(s, "reads", {}))
    if len(way) > 2 and way[-3][0] == "experts":
        yield check_build
        with contextlib.suppress(ExpertNotAvailable, ExpertBuildError):  # told by the preflight
            yield expert_factory(str(parent.get("type")))


def _classes(kind: Any) -> list[Any]:  # noqa: ANN401 - a config's `type`
    if not isinstance(kind, str):
        return [kind] if callable(kind) else []
    found = [getattr(registry, name).get(kind) for name in _REGISTRIES]
    return [entry for entry in found if callable(entry)]  # mmengine gives modules of a name too


def _only_text(hint: Any) -> bool:  # noqa: ANN401 - an annotation
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return str in parts and set(parts) <= {str, Path, type(None)}
