"""`check`: run the conformance kit on an expert; exit status 1 if it fails a check."""

import argparse
import time
from collections import Counter
from typing import TYPE_CHECKING

from tove_plugins._commands._finding import find_experts
from tove_plugins._commands._text import wrap
from tove_plugins._errors import CommandError

if TYPE_CHECKING:  # importing the kit imports torch
    from tove_plugins.testing import Check, CheckResult

__all__ = ["add_arguments", "run"]

NAME_COLUMNS = 29


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="the expert's name")
    parser.add_argument(
        "--real", action="store_true", help="its trained weights, not the small random build"
    )
    parser.add_argument("--device", default="cpu", help="where it runs, cuda say (default: cpu)")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="these checks alone")
    parser.add_argument("--list", action="store_true", help="name the checks, and run none")


def run(parsed: argparse.Namespace) -> int:
    """Check an expert, or name the checks."""
    if parsed.list:
        return _name_the_checks()
    if parsed.name is None:
        raise CommandError("check needs the name of an expert; --list names the checks instead.")
    entry = find_experts().get(parsed.name)
    from tove_plugins.testing import Subject
    from tove_plugins.testing._run import choose_checks, run_check

    _require_device(parsed.device)
    try:
        checks = choose_checks(parsed.only)
    except ValueError as error:
        raise CommandError(str(error)) from error
    subject = Subject(parsed.name, real=parsed.real, device=parsed.device)
    build = "with its trained weights" if parsed.real else "its small random build"
    print(
        f"{parsed.name} of {entry.distribution} {entry.version}, {build}, on {parsed.device}",
        flush=True,
    )
    start = time.monotonic()
    results: list[CheckResult] = []
    for number, check in enumerate(checks, start=1):
        place = f"{number:>3}/{len(checks)} {check.name}"
        print(place.ljust(NAME_COLUMNS), end="", flush=True)
        result = run_check(check, subject, results)
        print(_told(check, result, results), flush=True)
        results.append(result)
    return _conclude(results, time.monotonic() - start)


def _name_the_checks() -> int:
    from tove_plugins.testing import all_checks

    for check in all_checks():
        print(wrap(check.protects, " " * 23, f"{check.name:<22} "))
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
        sentence = check.protects
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
