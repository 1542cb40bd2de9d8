"""Files and folders that are written whole or not at all; a full disk is one sentence.

What is being written lies beside its place as `.NAME.abcd1234.tmp`; SIGKILL alone leaves it there.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mmengine.fileio import LocalBackend, register_backend
from safetensors import SafetensorError

from tove.errors import CheckpointError

__all__ = [
    "AtomicBackend",
    "atomic_writer",
    "check_places",
    "is_full_disk",
    "remove_unfinished",
    "temporary_folder",
    "unwritable",
    "write_text",
    "writing",
]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.tmp")  # see `atomic_writer`

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """Give the one sentence for a file or folder that cannot be written."""
    return CheckpointError(
        f"Writing {path} failed ({getattr(error, 'strerror', None) or error}); what was there "
        "before is untouched. Free space, mend the permissions or name another place, then run the "
        "command again, a training with --resume."
    )


def is_full_disk(error: OSError) -> bool:
    """Tell whether an error says that there is no room, on the disk or within a quota."""
    return error.errno in _FULL


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one sentence that `path` cannot be written, where that happens in the block.

    Raises:
        CheckpointError: a write failed, be it of Python's or of safetensors, which has an error of
            its own.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error


@contextmanager
def atomic_writer(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    Raises:
        CheckpointError: the file cannot be written; what was at `path` before is untouched.
    """
    temporary: Path | None = None
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.NamedTemporaryFile(
                mode,
                dir=path.parent,
                prefix=f".{path.name}.",
                suffix=".tmp",
                delete=False,
                encoding=None if "b" in mode else "utf-8",
            ) as stream:
                temporary = Path(stream.name)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def check_places(*files: Path | None) -> None:
    """Say before long work where its files cannot be written; None is no file.

    Raises:
        CheckpointError: one of them is a folder, or its own folder takes no file.
    """
    for path in files:
        if path is not None:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                tempfile.TemporaryFile(dir=path.parent).close()


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder beside `path`, to be filled and renamed to it; it goes with the block.

    What a killed process left of an earlier one goes first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_of(path.parent.iterdir(), path.name)
    new = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove_unfinished(work_dir: Path, stages: Iterable[str]) -> None:
    """Remove what a killed run left half written in a work folder, whose lock the caller holds.

    Other folders in it, a token cache say, may be written to by somebody else.

    Args:
        work_dir: looked at without its folders.
        stages: names of its folders that are looked at with all that is in them.
    """
    _remove_of(work_dir.iterdir())
    for stage in stages:
        _remove_of((work_dir / stage).rglob(".*.tmp"))


def _remove_of(paths: Iterable[Path], name: str | None = None) -> None:
    """Remove what lies under a temporary name, if `name` is given under one of its own."""
    for path in list(paths):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or name not in (None, found["name"]):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_writer(path, "w") as stream:
        stream.write(text)


class AtomicBackend(LocalBackend):
    """mmengine's local file backend, except that `put` never leaves half a file."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically."""
        with atomic_writer(Path(filepath)) as stream:
            stream.write(obj)


register_backend("tove_atomic", AtomicBackend, force=True)
