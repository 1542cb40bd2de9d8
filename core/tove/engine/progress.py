"""How far a pass over a data set is, and how long it will still take.

On a terminal a bar that goes when it is done; in a log file or a pipe a line every half minute, so
that a pass of ten minutes is not silent and one of seconds leaves nothing.
"""

import atexit
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)

from tove.engine.rows import make_console
from tove.registry import HOOKS

__all__ = ["ProgressHook", "passing"]


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows the progress of evaluations: tests, and validations within a training.

    Args:
        seconds: between lines where there is no terminal.
        console: where to; by default the standard output, of the main process.
        clock: gives seconds.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        seconds: float = 30.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.clock = seconds, clock
        self.console = console or make_console(quiet=not is_main_process())
        self._pass = ExitStack()
        self._advance: Callable[[int], None]
        atexit.register(self._pass.close)  # an evaluation that fails leaves a cursor behind

    def _begin(self, what: str, total: int) -> None:
        shown = passing(what, total, self.console, seconds=self.seconds, clock=self.clock)
        self._advance = self._pass.enter_context(shown)

    def before_test(self, runner: Runner) -> None:
        """Begin."""
        self._begin("evaluation", len(runner.test_dataloader))

    def before_val(self, runner: Runner) -> None:
        """Begin."""
        self._begin("validation", len(runner.val_dataloader))

    def after_test_iter(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Go on."""
        self._advance(1)

    def after_test(self, runner: Runner) -> None:
        """End."""
        self._pass.close()

    after_val_iter, after_val = after_test_iter, after_test


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Rate(ProgressColumn):
    """How many units a second are done."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> str:
        """Return the rate as text."""
        return f"{task.speed:.3g} {self.unit}/s" if task.speed else ""


@contextmanager
def passing(
    what: str,
    total: int,
    console: Console,
    unit: str = "batches",
    seconds: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], None]]:
    """Show how far a pass is, at which rate, and how long it will take; give what moves it on.

    Args:
        what: it does.
        total: units in all.
        console: where to.
        unit: of what, in the plural.
        seconds: between lines where there is no terminal.
        clock: gives seconds.
    """
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
    began = told = clock()
    done = 0

    def advance(number: int) -> None:
        nonlocal done, told
        done = min(total, done + number)
        bar.update(task, completed=done)
        now = clock()
        if not console.is_terminal and now - told >= seconds and done < total:
            told = now
            speed = done / (now - began)
            left = _duration((total - done) / speed)
            line = f"  {what}: {done} of {total} {unit}, {speed:.3g}/s, {left} left"
            console.print(line)

    with bar if console.is_terminal else nullcontext():
        task = bar.add_task(what, total=total)
        yield advance
