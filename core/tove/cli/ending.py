"""How a command ends.

An error that the user can mend is printed as its one sentence and gives exit status 2; with
TOVE_TRACEBACK=1 the traceback comes along. Any other is a traceback and gives 1. What a signal has
ended gives 128 and its number.
"""

import argparse
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps

import torch.distributed as dist

from tove.engine.distributed import is_lost_process
from tove.errors import Preempted

__all__ = ["command"]

_OWN_PACKAGES = ("tove", "tove_plugins")
_A_LOST_PROCESS = (
    "Another process of this run did not answer in time: it was stopped or killed, or its machine "
    "cannot be reached. End what is left of the run and go on with --resume; how long processes "
    "wait for each other is env_cfg.dist_cfg.timeout, in seconds."
)
_A_FAULT = (
    "error: this is a fault of tove_plugins, or of code that a config or a plugin brings; if the "
    "lines above name none of yours, please report them."
)


def command(work: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    """Give a command its exit status, and its errors a sentence where a user can mend them."""

    @wraps(work)
    def ended(args: argparse.Namespace) -> int:
        gc.freeze()  # no collection looks through what is imported
        gc.enable()
        try:
            work(args)
            sys.stdout.flush()
        except Preempted as saved:
            print(saved, file=sys.stderr)
            return saved.exit_status
        except KeyboardInterrupt:
            return _interrupted()
        except BrokenPipeError:  # `... | head`: whoever read has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except Exception as error:
            if _hides_an_interrupt(error):
                return _interrupted()
            told = _sentence(error)
            if told is None or os.environ.get("TOVE_TRACEBACK") == "1":
                traceback.print_exc()
            print(f"error: {told}" if told else _A_FAULT, file=sys.stderr)
            return 2 if told else 1
        finally:
            gc.unfreeze()
            if dist.is_initialized():
                dist.destroy_process_group()
        return 0

    return ended


def _interrupted() -> int:
    print("interrupted; --resume goes on where a training had saved", file=sys.stderr)
    return 128 + signal.SIGINT


def _hides_an_interrupt(error: BaseException | None) -> bool:
    """Tell whether Ctrl-C was caught by a library that raised its own error for it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _sentence(error: Exception) -> str | None:
    """Return what a user can do about an error; None for one that is nobody's but a program's."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if is_lost_process(error):
        return _A_LOST_PROCESS
    if type(error).__module__.partition(".")[0] not in _OWN_PACKAGES:
        return None
    text = str(error)
    if text.startswith("Caught ") and "Traceback (most recent call last)" in text:
        # That of a loader's worker comes as its whole traceback.
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split())  # a cause may be of another library, in many lines
