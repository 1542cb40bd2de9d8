"""Checks by name. A check is a function of its subject that raises AssertionError.

Its docstring is its documentation, in three parts: a first line on what goes wrong in a run without
it, a paragraph on what is done, and one that begins with "Mend:".
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from tove_plugins.testing._subject import SkipCheck

__all__ = [
    "Check",
    "CheckList",
    "ExpertCheckError",
    "SkipCheck",
    "Stage",
    "all_checks",
    "expert_check",
    "fail",
]

Stage = Literal["static", "built"]
Function = Callable[[Any], str | None]


class ExpertCheckError(AssertionError):
    """One or more checks failed; the message has a sentence for each."""


@dataclass(frozen=True, slots=True)
class Check:
    """A named check.

    Args:
        name: Its name, as reports and `checks=` use it.
        stage: "static" looks at the spec, "built" at what is built.
        protects: A sentence on what goes wrong in a run without it.
        does: What it does to find out.
        mend: What the author of what fails it should do.
        function: Raises AssertionError with a sentence where it is at fault; may return a note.
    """

    name: str
    stage: Stage
    protects: str
    does: str
    mend: str
    function: Function

    def __call__(self, subject: Any) -> str | None:  # noqa: ANN401 - a `Subject`, or a method's
        """Check a subject; return what is to be told of one that passes, if anything."""
        return self.function(subject)


class CheckList:
    """The checks of one kind.

    Args:
        first: The built check without which the other built ones say nothing.
    """

    def __init__(self, first: str) -> None:
        self.first = first
        self._checks: dict[str, Check] = {}

    def register(self, stage: Stage) -> Callable[[Function], Function]:
        """Register a function `check_NAME`, documented as the module says."""

        def add(function: Function) -> Function:
            name = function.__name__.removeprefix("check_")
            protects, _, rest = (inspect.getdoc(function) or "").partition("\n\n")
            does, _, mend = rest.partition("\n\nMend: ")
            protects, does, mend = (" ".join(part.split()) for part in (protects, does, mend))
            self._checks[name] = Check(name, stage, protects, does, mend, function)
            return function

        return add

    def every(self) -> tuple[Check, ...]:
        """Give every check, the static ones first."""
        return tuple(sorted(self._checks.values(), key=lambda check: check.stage == "built"))


EXPERT_CHECKS = CheckList(first="shape_and_grid")
expert_check = EXPERT_CHECKS.register
all_checks = EXPERT_CHECKS.every


def fail(sentence: str) -> NoReturn:
    """Fail the running check with a sentence; an `assert` would vanish under `python -O`."""
    raise AssertionError(sentence)
