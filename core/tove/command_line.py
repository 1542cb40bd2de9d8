"""What the scripts in `tools` share before anything heavy is imported."""

import argparse
import ctypes
import gc
import locale
import os
import sys
from collections.abc import Sequence

__all__ = [
    "add_model_options",
    "check_endings",
    "check_least",
    "keep_freed_memory",
    "prepare_process",
]


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, <malloc.h>
_MOST_FROM_HEAP = 32 * 2**20  # bytes of a block; glibc takes no more
_KEPT = 512 * 2**20  # bytes that are free


def prepare_process() -> None:
    """Settle encoding, bars, cores and memory of the process; call it before torch is imported.

    Until a command of `tove.cli` begins no garbage is collected: imports leave none, and looking
    for it takes a fifth of their time.
    """
    _speak_utf8()
    _spare_short_bars()
    _spare_cores()
    keep_freed_memory()
    gc.disable()


def _speak_utf8() -> None:
    """Begin anew in UTF-8 where the locale is another.

    Names of images could not be read in it, and a report not be written.
    """
    chosen = sys.flags.utf8_mode or "utf8" in sys._xoptions
    if not chosen and locale.getencoding().lower() not in ("utf-8", "utf8"):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _spare_short_bars() -> None:
    """Leave out the bars of what takes no two seconds: transformers shows one for each model.

    A run loads its models dozens of times. A download is longer, and is shown.
    """
    os.environ.setdefault("TQDM_DELAY", "2")  # read by tqdm as it is imported


def _spare_cores() -> None:
    """Let threads that wait spin for a short while only.

    Threads that spin long take the cores of what else runs on the machine, and of each other:
    without this a busy one is several times as slow, while an idle one is as fast.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def keep_freed_memory() -> None:
    """Let glibc keep what is freed rather than give it back to the system, where it is glibc.

    A forward pass frees what it computed and the next one asks for as much again: given back, each
    page is a fault and is filled with zeros anew, for a quarter of the hub's time in extraction and
    evaluation (in training glibc learns by itself). What is set in the environment stays.
    """
    if any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("TRIM", "MMAP")):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _MOST_FROM_HEAP)
        set_option(_TRIM_THRESHOLD, _KEPT)


def check_least(parser: argparse.ArgumentParser, args: argparse.Namespace, **least: float) -> None:
    """End the command where a number is below the least that its option can be; nan is."""
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and not value >= smallest:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} is {value}; give {smallest:g} or more")


def check_endings(
    parser: argparse.ArgumentParser, args: argparse.Namespace, **endings: Sequence[str]
) -> None:
    """End the command where a file's name says another format than the one that is written."""
    for name, known in endings.items():
        path = getattr(args, name)
        if path is not None and path.suffix.lower() not in known:
            parser.error(f"--{name} is {path}; give a name that ends in {' or '.join(known)}")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add how a trained model is used: which of a run's, with which experts, where, and printed."""
    parser.add_argument("--detached", nargs="+", default=[], metavar="SLOT", help="experts to omit")
    parser.add_argument("--stage", help="whose model, or a row's name (default: the method's)")
    parser.add_argument("--device", help="such as cpu or cuda (default: what there is)")
    parser.add_argument("--dtype", help="such as bfloat16 (default: as trained)")
    parser.add_argument("--json", action="store_true", help="print JSON")
