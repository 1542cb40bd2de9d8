"""Run a stranger's code so that neither an exit, a print nor a hang of it reaches the host."""

import io
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Generic, TypeVar

__all__ = ["Outcome", "TookTooLong", "contained"]

T = TypeVar("T")


class TookTooLong(BaseException):
    """The time limit passed. Not an Exception, so that `except Exception` cannot swallow it."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of a call: its value or its error, and what it printed to stdout."""

    value: T | None
    error: BaseException | None
    printed: str


def contained(function: Callable[[], T], seconds: float) -> Outcome[T]:
    """Call `function`, catch all but the user's own interrupt, and keep stdout clean.

    Args:
        function: What to call.
        seconds: The limit; it holds in the main thread on systems with `SIGALRM`, for code that
            returns to the interpreter now and then.
    """
    stdout = io.StringIO()
    try:
        with redirect_stdout(stdout), _time_limit(seconds):
            value = function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and TookTooLong are none of Exception
        return Outcome(None, error, stdout.getvalue())
    return Outcome(value, None, stdout.getvalue())


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TookTooLong` in the body after `seconds`.

    A signal rather than a thread: an import abandoned in a thread would keep its module's lock.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (hasattr(signal, "setitimer") and in_main_thread and seconds > 0):
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"it did not finish within {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, stop)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining, interval)
        signal.signal(signal.SIGALRM, previous if previous is not None else signal.SIG_DFL)
