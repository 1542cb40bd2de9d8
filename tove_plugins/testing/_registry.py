"""The checks by name. A check is a function of a `Subject` that raises AssertionError.

Its docstring is its documentation, in three parts: a first line on what goes wrong in a run without
it, a paragraph on what is done, and one that begins with "Mend:".
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NoReturn

from tove_plugins.testing._subject import SkipCheck, Subject

__all__ = ["Check", "ExpertCheckError", "SkipCheck", "Stage", "all_checks", "expert_check", "fail"]

Stage = Literal["static", "built"]


class ExpertCheckError(AssertionError):
    """One or more checks failed; the message has a sentence for each."""


@dataclass(frozen=True, slots=True)
class Check:
    """A named check.

    Args:
        name: Its name, as reports and `checks=` use it.
        stage: "static" looks at the spec, "built" at the built expert.
        protects: A sentence on what goes wrong in a run without it.
        does: What it does to find out.
        mend: What the author of an expert that fails it should do.
        function: Raises AssertionError with a sentence where the expert is at fault.
    """

    name: str
    stage: Stage
    protects: str
    does: str
    mend: str
    function: Callable[[Subject], None]

    def __call__(self, subject: Subject) -> None:
        """Check an expert."""
        self.function(subject)


_CHECKS: dict[str, Check] = {}


def expert_check(stage: Stage) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function `check_NAME`, documented as the module says."""

    def register(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = function.__name__.removeprefix("check_")
        protects, _, rest = (inspect.getdoc(function) or "").partition("\n\n")
        does, _, mend = rest.partition("\n\nMend: ")
        protects, does, mend = (" ".join(part.split()) for part in (protects, does, mend))
        _CHECKS[name] = Check(name, stage, protects, does, mend, function)
        return function

    return register


def all_checks() -> tuple[Check, ...]:
    """Give every check, the static ones first."""
    return tuple(sorted(_CHECKS.values(), key=lambda check: check.stage == "built"))


def fail(sentence: str) -> NoReturn:
    """Fail the running check with a sentence; an `assert` would vanish under `python -O`."""
    raise AssertionError(sentence)
