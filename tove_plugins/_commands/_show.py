"""`show`: all that is known of an expert or a method, and the line of a config that uses it."""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tove_plugins._catalog import ExpertEntry, MethodEntry
from tove_plugins._commands._finding import find_entries
from tove_plugins._commands._options import describe_options
from tove_plugins._commands._text import print_lines, safe_repr, wrap
from tove_plugins.specs import ImageSpec, Weights

__all__ = ["add_arguments", "run"]

INDENT = 10
HUB = re.compile(r"(hub:[^/@]+/[^/@]+)((?:/.+)?)")  # without a revision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("name", metavar="NAME", help="a name that `list` gives")
    parser.add_argument(
        "--options",
        action="store_true",
        help="also the parameters of its factory, which has to be imported for that",
    )


def run(parsed: argparse.Namespace) -> int:
    """Show an expert, a method, or both where they have one name."""
    lines: list[str] = []
    for entry in find_entries(parsed.name):
        spec = entry.spec
        title = getattr(spec, "description", "") or getattr(spec, "task", "")
        lines += [*([""] if lines else []), f"{spec.name}: {title or getattr(spec, 'summary', '')}"]
        lines.append("")
        for label, text in _card(entry) if isinstance(entry, ExpertEntry) else _method_card(entry):
            lines.append(wrap(text, " " * INDENT, label.ljust(INDENT)))
        if parsed.options and isinstance(entry, ExpertEntry):
            lines += ["", *describe_options(entry.spec)]
    print_lines(lines)
    return 0


def _method_card(entry: MethodEntry) -> Iterator[tuple[str, str]]:
    spec = entry.spec
    yield "types", ", ".join(spec.types)
    yield "paper", spec.paper or "none named"
    yield "licence", spec.licence
    yield "needs", ", ".join(spec.requires) or "nothing beyond its distribution's requirements"
    yield "module", f"{spec.module}, written for API {spec.api}"
    yield "from", entry.origin
    yield "status", "active"
    for name in (text.partition(".")[2] for text in spec.types if text.startswith("MODELS.")):
        yield "config", f'model=dict(type="{name}", ...)'


def _card(entry: ExpertEntry) -> Iterator[tuple[str, str]]:
    """Give the card's lines as (label, text); no label goes on under the one before."""
    spec = entry.spec
    rows, columns = spec.tokens.grid
    yield "task", spec.task
    yield "takes", _taken(spec.image)
    yield "gives", f"{rows}x{columns} tokens of width {spec.tokens.width}, {spec.tokens.kind}"
    yield from _weights(spec.weights)
    yield "options", _keywords(spec.options)
    yield "tiny", f"{_keywords(spec.tiny)} (small random build, offline)"
    if spec.resolve:
        yield "resolve", f"{spec.resolve} tells what other weights and options take and give"
    yield "needs", ", ".join(spec.requires) or "nothing beyond its distribution's requirements"
    yield "factory", f"{spec.factory}, written for API {spec.api}"
    yield "from", entry.origin
    yield "status", "active"
    slot = re.sub(r"\W", "_", spec.task)
    yield "config", f'experts=dict({slot}=dict(type="{spec.name}"))'
    yield "", f"--cfg-options model.experts.{slot}.type={spec.name}"


def _taken(image: ImageSpec) -> str:
    low, high = image.value_range
    return (
        f"RGB {image.size[0]}x{image.size[1]} (rows x columns), {image.interpolation}; "
        f"black to white {low:g} to {high:g}, minus {_numbers(image.mean)}, "
        f"over {_numbers(image.std)}"
    )


def _numbers(three: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{number:g}" for number in three) + ")"


def _weights(weights: Weights | None) -> Iterator[tuple[str, str]]:
    if weights is None:
        yield "weights", "none"
        return
    allowed = "commercial use allowed" if weights.commercial_use else "no commercial use"
    yield "weights", f"{weights.source} ({weights.size_mb:.3g} MB)"
    yield "", f"sha256 {weights.sha256 or _pin(weights.source)}"
    yield "", f"licence {weights.licence}, {allowed}"
    yield "", f"trained on {weights.trained_on}"


def _pin(source: str) -> str:
    """Say how a config holds weights to a file whose plugin declares no digest."""
    hub = HUB.fullmatch(source)
    own = f'weights="{hub[1]}@REVISION{hub[2]}", ' if hub else ""
    return f'not declared, so not compared; a config pins it by {own}sha256="DIGEST"'


def _keywords(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={safe_repr(value)}" for name, value in options.items()) or "none"
