"""The list of the checks, and how it is run from a test."""

from collections.abc import Callable, Iterable
from typing import Any

from tove.testing._subject import MethodSubject
from tove_plugins.testing import (
    CheckList,
    CheckResult,
    choose_checks,
    run_check,
    skipping,
)

__all__ = ["METHOD_CHECKS", "MethodCheckError", "check_method", "parametrize_with_method_checks"]

METHOD_CHECKS = CheckList(first="builds")


class MethodCheckError(AssertionError):
    """One or more checks failed; the message has a sentence for each."""


def check_method(
    name: str, *, checks: Iterable[str] | None = None, device: str = "cpu"
) -> list[CheckResult]:
    """Run the checks on an installed method.

    Args:
        name: the method's.
        checks: names of those to run; all if None.
        device: where models are built.

    Raises:
        MethodCheckError: checks failed; all of them are named.
        ValueError: `checks` holds an unknown name.
    """
    chosen = choose_checks(checks, METHOD_CHECKS)
    subject = MethodSubject(name, device)
    results: list[CheckResult] = []
    for check in chosen:
        results.append(run_check(check, subject, results, METHOD_CHECKS.first))
    failed = [result for result in results if result.outcome == "failed"]
    if failed:
        lines = "\n".join(f"- {result.name}: {result.message}" for result in failed)
        raise MethodCheckError(
            f"Method '{name}' fails {len(failed)} of {len(results)} checks:\n{lines}"
        )
    return results


def parametrize_with_method_checks(
    methods: Iterable[str], *, checks: Iterable[str] | None = None, device: str = "cpu"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make one pytest test per method and check of `def test(method, check): check(method)`."""
    import pytest

    chosen = choose_checks(checks, METHOD_CHECKS)
    parameters = [
        pytest.param(subject, skipping(check), id=f"{subject.name}-{check.name}")
        for subject in (MethodSubject(name, device) for name in methods)
        for check in chosen
    ]
    return pytest.mark.parametrize(("method", "check"), parameters)
