"""Files that are written whole or not at all; a full disk is one sentence, whoever hits it."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mmengine.fileio import LocalBackend, register_backend
from safetensors import SafetensorError

from tove.errors import CheckpointError

__all__ = [
    "AtomicBackend",
    "atomic_writer",
    "is_full_disk",
    "remove_unfinished",
    "unwritable",
    "write_text",
    "writing",
]

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # see `atomic_writer`


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """Give the one sentence for a file or folder that cannot be written."""
    return CheckpointError(
        f"Writing {path} failed ({getattr(error, 'strerror', None) or error}); what was there "
        "before is untouched. Free space or mend the permissions, then go on with --resume."
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
                mode, dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
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


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of `atomic_writer` that a killed process left under a folder."""
    for path in folder.rglob(".*.*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
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
