"""Run checks over an expert and report on all of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from tove_plugins.specs import ExpertSpec
from tove_plugins.testing._registry import (
    EXPERT_CHECKS,
    Check,
    CheckList,
    ExpertCheckError,
    SkipCheck,
)
from tove_plugins.testing._subject import Subject

__all__ = ["CheckResult", "check_expert", "parametrize_with_expert_checks"]

RAISED = "It raised"
NO_GPU = ("Found no NVIDIA driver", "not compiled with CUDA", "No CUDA GPUs", "No HIP GPUs")
GPU_IS_NOT_HERE = (
    "It asks for a GPU by itself, and this machine has none: a fault of device_follows. Take the "
    "device from `images.device`, register constant tensors with register_buffer(), and leave "
    '.cuda() and device="cuda" out; the core moves the expert.'
)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check said of an expert: its name, "passed", "failed" or "skipped", a sentence.

    A check that passes has a sentence where it reports something.
    """

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    message: str = ""


def check_expert(
    expert: str | ExpertSpec | nn.Module,
    spec: ExpertSpec | None = None,
    *,
    checks: Iterable[str] | None = None,
    real: bool = False,
    device: str = "cpu",
    raise_on_failure: bool = True,
) -> list[CheckResult]:
    """Run the checks on an expert.

    Args:
        expert: The name of an installed expert, a spec to build from, or a built module.
        spec: The spec of a built module.
        checks: Names of the checks to run; all if None.
        real: Build with the trained weights instead of the small random form.
        device: Where the built checks run.
        raise_on_failure: Raise when any failed, otherwise give the results only.

    Raises:
        ExpertCheckError: Checks failed; all of them are named.
        ValueError: `checks` holds an unknown name.
    """
    subject = Subject(expert, spec, real=real, device=device)
    results: list[CheckResult] = []
    for check in choose_checks(checks):
        results.append(run_check(check, subject, results))
    failed = [result for result in results if result.outcome == "failed"]
    if failed and raise_on_failure:
        lines = "\n".join(f"- {result.name}: {result.message}" for result in failed)
        raise ExpertCheckError(
            f"Expert '{subject.name}' fails {len(failed)} of {len(results)} checks:\n{lines}"
        )
    return results


def parametrize_with_expert_checks(
    experts: Iterable[str | ExpertSpec],
    *,
    checks: Iterable[str] | None = None,
    real: bool = False,
    device: str = "cpu",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make one pytest test per expert and check of `def test(expert, check): check(expert)`."""
    import pytest

    chosen = choose_checks(checks)
    subjects = [Subject(expert, real=real, device=device) for expert in experts]
    parameters = [
        pytest.param(subject, skipping(check), id=f"{subject.name}-{check.name}")
        for subject in subjects
        for check in chosen
    ]
    return pytest.mark.parametrize(("expert", "check"), parameters)


def skipping(check: Check) -> Callable[[Subject], None]:
    """Make a check one that pytest skips where it says that it cannot look."""
    import pytest

    def run(subject: Subject) -> None:
        try:
            check(subject)
        except SkipCheck as reason:
            pytest.skip(str(reason))
        except Exception as error:
            if _asks_for_gpu(error):
                error.add_note(GPU_IS_NOT_HERE)
            raise

    return run


def choose_checks(
    names: Iterable[str] | None, checks: CheckList = EXPERT_CHECKS
) -> tuple[Check, ...]:
    """Give the checks of these names, or all.

    Raises:
        ValueError: No check has the name.
    """
    known = {check.name: check for check in checks.every()}
    if names is None:
        return tuple(known.values())
    wanted = list(names)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(
            f"No check is called {', '.join(map(repr, unknown))}; there are: {', '.join(known)}."
        )
    return tuple(known[name] for name in wanted)


def run_check(
    check: Check,
    subject: Any,  # noqa: ANN401 - a `Subject`, or a method's
    earlier: list[CheckResult],
    first: str = EXPERT_CHECKS.first,
) -> CheckResult:
    """Run one check; what the earlier ones found tells whether it can say anything."""
    broken = [r for r in earlier if r.name == first and r.outcome == "failed"]
    if broken and check.stage == "built":
        return CheckResult(check.name, "skipped", _why_not(broken[0]))
    try:
        note = check(subject)
    except SkipCheck as reason:
        return CheckResult(check.name, "skipped", str(reason))
    except AssertionError as failure:
        if _asks_for_gpu(failure):  # torch's own, where it was built without CUDA
            return CheckResult(check.name, "failed", _told(failure))
        return CheckResult(check.name, "failed", str(failure))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an expert that raises, or exits, fails the check that met it
        return CheckResult(check.name, "failed", _told(error))
    return CheckResult(check.name, "passed", note or "")


def _why_not(first: CheckResult) -> str:
    if first.name != EXPERT_CHECKS.first:
        return f"What it looks at is not there; see {first.name}."
    if first.message.startswith(RAISED):
        return "It raised before it gave tokens; see shape_and_grid."
    return "Its tokens do not have the declared shape."


def _told(error: BaseException) -> str:
    """Say what an expert raised, and how to mend it where that is known."""
    sentence = f"{RAISED} {type(error).__name__}: {error}"
    return f"{sentence}\n{GPU_IS_NOT_HERE}" if _asks_for_gpu(error) else sentence


def _asks_for_gpu(error: BaseException) -> bool:
    return any(words in str(error) for words in NO_GPU)
