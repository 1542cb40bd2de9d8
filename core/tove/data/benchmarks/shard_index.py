"""Where the samples of WebDataset's tars lie: every tar is read through once, and remembered.

A sample is what shares a name up to its first dot: 000000012.jpg, 000000012.txt, 000000012.json.
The index is a numpy file that all processes map into memory: 28 bytes a sample, 330 MB for CC12M.
"""

import hashlib
import mmap
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from tove.atomic_io import atomic_writer
from tove.data.image_io import image_suffixes
from tove.errors import CheckpointError, ConfigError
from tove.modules.collectives import on_main

__all__ = ["ABSENT", "ENTRY", "open_index", "read_shard"]

ENTRY = np.dtype(
    [
        ("shard", "<i4"),
        ("image", "<i8"),
        ("image_bytes", "<i4"),
        ("caption", "<i8"),
        ("caption_bytes", "<i4"),
    ]
)
"""Of a sample: the number of its tar, where image and caption begin there, and their bytes."""

ABSENT = -1  # the bytes of what a sample lacks
_BY_ONE = 8  # tars that are worth a process of their own


def open_index(paths: Sequence[str], caption: str, folder: str) -> np.ndarray:
    """Return the samples of some tars, in their order, as an array of `ENTRY`.

    Where a tar is damaged, an entry that lacks both parts stands for what lies behind.

    Args:
        paths: of the tars.
        caption: the suffix of the captions, without a dot.
        folder: the index is kept in.

    Raises:
        ConfigError: it cannot be written there.
    """
    states = [os.stat(path) for path in paths]
    known = [(path, s.st_size, s.st_mtime_ns) for path, s in zip(paths, states, strict=True)]
    digest = hashlib.sha256(repr((caption, ENTRY.descr, known)).encode()).hexdigest()[:16]
    file = Path(folder, f".shards-{digest}.npy").expanduser()
    on_main(lambda: _write(file, paths, caption))
    index: np.ndarray = np.load(file, mmap_mode="r")
    return index


def _write(file: Path, paths: Sequence[str], caption: str) -> None:
    if file.exists():
        return
    read = partial(read_shard, caption=caption)
    processes = min(os.cpu_count() or 1, len(paths) // _BY_ONE)
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            shards = list(pool.map(read, paths))
    else:
        shards = list(map(read, paths))
    for number, entries in enumerate(shards):
        entries["shard"] = number
    try:
        with atomic_writer(file) as stream:
            np.save(stream, np.concatenate(shards))
    except CheckpointError as error:
        raise ConfigError(
            f"The index of {len(paths)} shards cannot be kept in {file.parent} "
            f"({error.__cause__}); name a folder that can be written to as index_dir of "
            "ImageTextShards."
        ) from error


def read_shard(path: str, caption: str) -> np.ndarray:
    """Return the samples of one tar as an array of `ENTRY`, `shard` left 0; see `open_index`."""
    found: list[tuple[int, int, int, int, int]] = []
    current, parts = "", dict[str, tuple[int, int]]()

    def keep(parts: Mapping[str, tuple[int, int]]) -> None:
        lacking = (0, ABSENT)
        found.append((0, *parts.get("image", lacking), *parts.get("caption", lacking)))

    try:
        for name, place, size in _members(path):
            folder, slash, base = name.rpartition("/")
            stem, _, suffix = base.lower().partition(".")
            if parts and folder + slash + stem != current:
                keep(parts)
                parts = {}
            current = folder + slash + stem
            kind = "caption" if suffix == caption else "image"
            if kind == "caption" or f".{suffix}" in image_suffixes():
                parts.setdefault(kind, (place, size))
    except (tarfile.TarError, EOFError, ValueError):  # an empty file cannot be mapped
        keep({})
    if parts:
        keep(parts)
    return np.array(found, dtype=ENTRY)


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, place and size of the files in a tar."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with mapped, tarfile.open(fileobj=mapped, mode="r:") as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, member.offset_data, member.size
