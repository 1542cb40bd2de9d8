"""A cache folder in an object store or on another machine, through fsspec: files are copied here.

A shard never changes once it has its name, so what is here is not fetched again; it is mapped into
memory as that of a local folder. The copies lie in a folder of their own, which knows the address.
"""

import hashlib
import os
import random
from pathlib import Path
from typing import Any

from tove.atomic_io import atomic_writer, write_text
from tove.errors import ConfigError

__all__ = ["copy_to", "fetch_new", "is_copy", "is_url", "local_folder"]

_ADDRESS = "address"
_GROWING = ("card.json", "README.md")  # which every extraction writes anew


def is_url(place: str) -> bool:
    """Tell an address, such as s3://bucket/tokens, from a path."""
    return "://" in place


def local_folder(place: str) -> Path:
    """Return the folder of a path; of an address that of its copy, with card and descriptions.

    Raises:
        ConfigError: fsspec or the library of its kind of store is missing, or it cannot be read.
    """
    if not is_url(place):
        return Path(place).expanduser()
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root, "tove", "tokens", hashlib.sha256(place.encode()).hexdigest()[:16])
    if not (folder / _ADDRESS).exists():
        write_text(folder / _ADDRESS, place + "\n")
    _fetch(folder, place, *_GROWING, "*/table.json")
    return folder


def is_copy(folder: Path) -> bool:
    """Tell whether a cache's folder is the copy of an address."""
    return (folder / _ADDRESS).exists()


def fetch_new(folder: Path) -> None:
    """Fetch the files of a table that are not here; of a folder that is no copy nothing.

    Raises:
        ConfigError: its address cannot be read.
    """
    if is_copy(folder.parent):
        place = (folder.parent / _ADDRESS).read_text().strip()
        _fetch(folder.parent, place, f"{folder.name}/*")


def copy_to(folder: Path, place: str) -> int:
    """Copy the files of a folder that an address lacks; return how many.

    What describes a table or the folder comes behind what it describes.

    Raises:
        ConfigError: the address cannot be written to.
    """
    store, base = _store(place)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    copied = 0
    try:
        for path in sorted(files, key=lambda path: (path.suffix != ".safetensors", path)):
            name = f"{base}/{path.relative_to(folder)}"
            whole = store.exists(name) and store.size(name) == path.stat().st_size
            if path.name in _GROWING or not whole:
                store.makedirs(name.rpartition("/")[0], exist_ok=True)
                store.put_file(str(path), name)
                copied += 1
    except Exception as error:  # each kind of store has errors of its own
        raise _refused(place, "written to", error) from error
    return copied


def _store(place: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs

        store, base = url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"The token cache {place} needs what reads such addresses: {error}. Run `pip install "
            "'tove_plugins[fsspec]'` and what fsspec asks for, s3fs for s3:// say; or copy the "
            "folder here and give its path."
        ) from error
    return store, base.rstrip("/")


def _fetch(folder: Path, place: str, *patterns: str) -> None:
    """Copy files here that are not, each whole or not at all; hidden ones are being written."""
    store, base = _store(place)
    try:
        store.invalidate_cache()  # what was listed before may have grown
        files = [name for pattern in patterns for name in store.glob(f"{base}/{pattern}")]
        random.Random(os.urandom(8)).shuffle(files)  # processes that begin together share the work
        for name in files:
            path = folder / name[len(base) + 1 :]
            if path.name.startswith(".") or (path.exists() and path.name not in _GROWING):
                continue
            with atomic_writer(path) as stream:  # stores write to a path, not to an open file
                store.get_file(name, stream.name)
    except Exception as error:  # each kind of store has errors of its own
        raise _refused(place, "read", error) from error


def _refused(place: str, what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"The token cache {place} cannot be {what}: {type(error).__name__}: {error}. Look at the "
        "address, at the room here, and at what the store wants to be told (for s3:// the "
        "environment's AWS_...)."
    )
