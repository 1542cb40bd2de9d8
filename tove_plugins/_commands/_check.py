"""`check`: run the conformance kit on an expert or a method; exit status 1 if a check fails."""

import argparse
import os
import time
from collections import Counter
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tove_plugins._catalog import ExpertEntry, MethodEntry
from tove_plugins._commands._finding import find_entries
from tove_plugins._commands._text import wrap
from tove_plugins._errors import CommandError

if TYPE_CHECKING:  # importing the kit imports torch
    from tove_plugins.testing import Check, CheckList, CheckResult

__all__ = ["add_arguments", "run"]

NAME_COLUMNS = 29
# A method is built by the engine, so its kit is the engine's; found by name, as a factory is.
METHOD_KIT = "tove.testing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the name of an expert or a method")
    parser.add_argument(
        "--real",
        action="store_true",
        help="an expert's trained weights, not the small random build",
    )
    parser.add_argument("--device", default="cpu", help="where it runs, cuda say (default: cpu)")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="these checks alone")
    parser.add_argument("--list", action="store_true", help="name the checks, and run none")


def run(parsed: argparse.Namespace) -> int:
    """Check an expert, or name the checks."""
    if parsed.list:
        return _name_the_checks()
    if parsed.name is None:
        raise CommandError(
            "check needs the name of an expert or a method; --list names the checks instead."
        )
    # transformers 5 shows a bar for each model that it loads, in the middle of a line of ours.
    os.environ.setdefault("TQDM_DELAY", "2")  # read by tqdm as torch imports it
    entries = find_entries(parsed.name)
    _require_device(parsed.device)
    return max(_check(entry, parsed) for entry in entries)


def _check(entry: ExpertEntry | MethodEntry, parsed: argparse.Namespace) -> int:
    from tove_plugins.testing._run import choose_checks, run_check

    subject, kit, build = _subject(entry, parsed)
    try:
        checks = choose_checks(parsed.only, kit)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(
        f"{parsed.name} of {entry.distribution} {entry.version}, {build}, on {parsed.device}",
        flush=True,
    )
    start = time.monotonic()
    results: list[CheckResult] = []
    for number, check in enumerate(checks, start=1):
        place = f"{number:>3}/{len(checks)} {check.name}"
        print(place.ljust(NAME_COLUMNS), end="", flush=True)
        result = run_check(check, subject, results, kit.first)
        print(_told(check, result, results), flush=True)
        results.append(result)
    return _conclude(results, time.monotonic() - start)


def _subject(
    entry: ExpertEntry | MethodEntry, parsed: argparse.Namespace
) -> tuple[object, "CheckList", str]:
    """Return what is checked, the checks, and the words for its build."""
    from tove_plugins.testing import Subject
    from tove_plugins.testing._registry import EXPERT_CHECKS

    if isinstance(entry, ExpertEntry):
        build = "with its trained weights" if parsed.real else "its small random build"
        subject = Subject(parsed.name, real=parsed.real, device=parsed.device)
        return subject, EXPERT_CHECKS, build
    kit = _method_kit()
    return (
        kit.MethodSubject(entry, device=parsed.device),
        kit.METHOD_CHECKS,
        "in front of small experts",
    )


def _method_kit() -> Any:  # noqa: ANN401 - a module of the engine, which the SDK does not know
    try:
        return import_module(METHOD_KIT)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"A method is checked by the engine, but there is no module '{error.name}' here. Mend "
            "it with: pip install -U tove_plugins"
        ) from error


def _name_the_checks() -> int:
    from tove_plugins.testing import all_checks

    kinds = {"expert": all_checks()}
    with suppress(CommandError):  # without the engine there are no checks of methods
        kinds["method"] = _method_kit().METHOD_CHECKS.every()
    for noun, checks in kinds.items():
        print(f"Checks of {'an' if noun == 'expert' else 'a'} {noun}:")
        for check in checks:
            print(wrap(check.protects, " " * 25, f"  {check.name:<22} "))
    return 0


def _require_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(
            f"--device {name} cannot be used here: {str(error).splitlines()[0]}"
        ) from error


def _told(check: "Check", result: "CheckResult", earlier: "list[CheckResult]") -> str:
    """Give what follows the check's name: its outcome and a sentence."""
    if result.outcome == "passed":
        sentence = result.message or check.protects
    elif result.message in {one.message for one in earlier}:
        sentence = "For the same reason as above."
    elif result.outcome == "failed":
        sentence = f"{result.message} What the check protects: {check.protects}"
    else:
        sentence = result.message
    name, outcome = " " * NAME_COLUMNS, f"{result.outcome:<8} "
    return wrap(sentence, name + " " * len(outcome), name + outcome)[NAME_COLUMNS:]


def _conclude(results: "list[CheckResult]", seconds: float) -> int:
    counts = Counter(result.outcome for result in results)
    told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
    print(f"{told} in {seconds:.1f} s")
    return 1 if counts["failed"] else 0
