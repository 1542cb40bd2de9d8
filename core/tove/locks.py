"""One writer at a time: a lock file that says who writes.

    {"pid": 4711, "host": "node3", "since": "2026-01-31 12:00:05", "born": "812345"}

It is written whole under another name and linked, which one process alone can do, over NFS as well.
It goes when its holder ends, by an error or SIGTERM too. What a killed holder left is taken over by
the next one on the same machine; another machine cannot tell, and says so.
"""

import glob
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from tove.errors import ConfigError

__all__ = ["locked"]

Holder = dict[str, Any]


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock during the block.

    Args:
        path: of the lock file.
        what: is written, for the message.

    Raises:
        ConfigError: another process holds it.
        OSError: the lock cannot be written.
    """
    mine = _holder(os.getpid())
    with _ended_by_sigterm(mine["pid"]):
        _take(path, mine, what)
        try:
            yield
        finally:
            # A forked process that leaves the block has not made the lock.
            if os.getpid() == mine["pid"] and _read(path) == mine:
                path.unlink(missing_ok=True)


def _take(path: Path, mine: Holder, what: str) -> None:
    draft = path.with_name(f"{path.name}.{mine['host']}.{mine['pid']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        draft.write_text(json.dumps(mine) + "\n")
        while not _claim(draft, path):
            other = _read(path)
            if other is None:
                continue  # it has just been given back
            if not _is_gone(other):
                raise ConfigError(_refusal(path, other, what))
            _remove_stale(path, other, draft.with_name(f"{draft.name}.stale"))
    finally:
        draft.unlink(missing_ok=True)
    _remove_drafts(path, mine["host"])


def _claim(draft: Path, path: Path) -> bool:
    """Give the draft the lock's name; False if somebody has it."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with path.open("x") as stream:
                stream.write(draft.read_text())
        except FileExistsError:
            return False
    return True


def _remove_stale(path: Path, seen: Holder, aside: Path) -> None:
    """Remove a lock whose holder is gone, unless another one has just done so and taken it."""
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside) != seen:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _remove_drafts(path: Path, host: str) -> None:
    """Remove what processes of this machine left that were killed while they took the lock."""
    for draft in path.parent.glob(f"{glob.escape(f'{path.name}.{host}')}.*"):
        pid = draft.name.removeprefix(f"{path.name}.{host}.").removesuffix(".stale")
        if pid.isdecimal() and _is_over(int(pid)):
            draft.unlink(missing_ok=True)


def _read(path: Path) -> Holder | None:
    """Return a lock's holder, empty if it cannot be read; None if there is no lock."""
    try:
        holder: Holder = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return holder


def _holder(pid: int) -> Holder:
    now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": pid, "host": socket.gethostname(), "since": now, "born": _born(pid)}


def _born(pid: int) -> str:
    """Return when a process began, in the kernel's count: a later one may have its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_gone(holder: Holder) -> bool:
    if holder.get("host") != socket.gethostname():
        return False
    pid = holder["pid"]
    return _is_over(pid) or holder.get("born") != _born(pid)


def _is_over(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _refusal(path: Path, other: Holder, what: str) -> str:
    here = other.get("host") == socket.gethostname()
    who = "process {pid} on {host} since {since}".format_map(other) if other else "somebody"
    mend = "end it" if here else f"delete {path} if that process is gone"
    return f"{what} is being written by {who}; wait for it, {mend}, or name another folder."


@contextmanager
def _ended_by_sigterm(pid: int) -> Iterator[None]:
    """End the block by SystemExit where SIGTERM would end the process at once.

    Whoever has a handler of his own, or starts a thread, keeps what he has.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != pid:  # a forked worker has inherited this
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
