"""Run a stranger's code so that neither an exit, a print nor a hang of it reaches the host.

A hang that returns to the interpreter is ended by a signal. One that never does, in C code or in
another thread than the main one, cannot be ended without harm; it is named on stderr, as is what
crashes the process. `os._exit` raises.
"""

import faulthandler
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Generic, NoReturn, TypeVar

__all__ = ["Outcome", "SuddenExit", "TookTooLong", "contained"]

T = TypeVar("T")

STDERR = 2  # the descriptor: the text must come out while the interpreter stands still
GRACE_SECONDS = 1.0  # for the signal to end what it can end


class TookTooLong(BaseException):
    """The time limit passed. Not an Exception, so that `except Exception` cannot swallow it."""


class SuddenExit(BaseException):
    """`os._exit` was called, which would have ended the host without a word."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of a call: its value or its error, and what it printed to stdout."""

    value: T | None
    error: BaseException | None
    printed: str


def contained(function: Callable[[], T], seconds: float, hang: str) -> Outcome[T]:
    """Call `function`, catch all but the user's own interrupt, and keep stdout clean.

    Args:
        function: What to call.
        seconds: The limit; it holds in the main thread on systems with `SIGALRM`, for code that
            returns to the interpreter now and then.
        hang: What to say on stderr of a call that the limit could not end, or that crashes.
    """
    stdout = io.StringIO()
    call = _frame_that_says(hang)
    try:
        with redirect_stdout(stdout), _hang_report(seconds), _crash_report(), _no_sudden_exit():
            with _time_limit(seconds):
                value = call(function)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and TookTooLong are none of Exception
        return Outcome(None, error, stdout.getvalue())
    return Outcome(value, None, stdout.getvalue())


def _call(function: Callable[[], T]) -> T:
    return function()


def _frame_that_says(sentence: str) -> Callable[[Callable[[], T]], T]:
    """Give a `_call` whose frame shows the sentence as its file.

    The dump of a process that stands still is written without the interpreter: file names and
    lines of the frames are all it can hold.
    """
    return FunctionType(_call.__code__.replace(co_filename=sentence), {})


@contextmanager
def _hang_report(seconds: float) -> Iterator[None]:
    """Dump the frames to stderr when the body goes on past the limit; it may hold the GIL."""
    if seconds <= 0:
        yield
        return
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _crash_report() -> Iterator[None]:
    """Dump the frames to stderr when the body crashes the process, by a segmentation fault say."""
    if faulthandler.is_enabled():  # the host's own
        yield
        return
    faulthandler.enable(STDERR, all_threads=False)
    try:
        yield
    finally:
        faulthandler.disable()


@contextmanager
def _no_sudden_exit() -> Iterator[None]:
    """Raise in the body where it calls `os._exit`; a process that it forks may."""
    real, host, inside = os._exit, os.getpid(), True

    def refuse(status: int) -> NoReturn:
        if inside and os.getpid() == host:
            raise SuddenExit(f"os._exit({status})")
        real(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit, inside = real, False


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
