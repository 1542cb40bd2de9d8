"""All tokens of one network under one codec: a folder of shards, read by key.

NAME-KEY/table.json          what the tokens depend on; its digest is the key
NAME-KEY/codec.safetensors   what the codec was fitted to, where it has something to fit
NAME-KEY/WRITER-00000.safetensors

Many processes and machines may read and write at once: a writer's shards have names of its own,
what is shared is written once, by whoever is first.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tove.atomic_io import write_text
from tove.backbones.feature_cache.codecs import Layout
from tove.backbones.feature_cache.remote import fetch_new
from tove.backbones.feature_cache.shards import SUFFIX, DamagedShard, Shard, bits_of

__all__ = ["FITTED", "Table", "first_to_write"]

FITTED = "codec.safetensors"
_OPEN_MAPS = 4096  # of the 65,530 that Linux allows a process

Bits = dict[str, np.ndarray]


def first_to_write(path: Path, content: bytes) -> bool:
    """Write a file unless it is there; return whether it was this call that did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
        try:
            os.link(f.name, path)
        except FileExistsError:
            return False
    path.chmod(0o644)
    return True


class Table:
    """The entries of one folder.

    Args:
        folder: of the table.
        key: of the table.
        layout: of an entry.

    Attributes:
        damaged: what was found wrong, a sentence each.
    """

    def __init__(self, folder: Path, key: str, layout: Layout) -> None:
        self.folder, self.key, self.layout = folder, key, layout
        self.damaged: list[str] = []
        self.pending: dict[bytes, dict[str, Tensor]] = {}
        self._shards: list[Shard | None] = []  # None is one whose index is damaged
        self._names: set[str] = set()
        self._keys: np.ndarray = np.empty((0, 2), np.uint64)  # sorted by their first halves
        self._places: np.ndarray = np.empty((0, 2), np.int64)  # shard and row of each
        self._spoilt: set[tuple[int, int]] = set()
        self._memory: dict[str, Tensor] = {}
        self._rows = -1
        self._mapped: dict[int, None] = {}  # the least recently read first

    def __len__(self) -> int:
        return len(self._keys)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write what the table is of; every writer of it writes the same."""
        if not (self.folder / "table.json").exists():
            text = json.dumps({"key": self.key, **description}, indent=1, default=str)
            write_text(self.folder / "table.json", text + "\n")

    @property
    def state(self) -> str:
        """The digest of what the codec was fitted to; "" where there is none."""
        path = self.folder / FITTED
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def refresh(self) -> "Table":
        """Look for shards that have come, from whichever process."""
        fetch_new(self.folder)
        found = sorted(p for p in self.folder.glob(f"*-*{SUFFIX}") if p.name[0] != ".")
        new = [path for path in found if path.name not in self._names]
        state = self.state if new else ""
        for path in new:
            self._names.add(path.name)
            try:
                self._shards.append(Shard(path, self.key, self.layout, state))
            except DamagedShard as error:
                self._shards.append(None)
                self.damaged.append(str(error))
        if new:
            self._index()
        return self

    def _index(self) -> None:
        keys: list[np.ndarray] = [np.empty((0, 16), np.uint8)]
        places: list[np.ndarray] = [np.empty((0, 2), np.int64)]
        for number, shard in enumerate(self._shards):
            if shard is not None:
                keys.append(shard.keys)
                rows = np.arange(len(shard))
                places.append(np.stack([np.full(len(shard), number), rows], 1))
        halves = np.concatenate(keys).view(np.uint64)
        order = np.argsort(halves[:, 0], kind="stable")
        self._keys, self._places = halves[order], np.concatenate(places)[order]

    def _find(self, key: bytes) -> Iterator[tuple[int, int]]:
        """Yield shard and row of each copy of an entry that is not known to be damaged."""
        first, second = np.frombuffer(key, np.uint64)
        at = int(np.searchsorted(self._keys[:, 0], first))
        while at < len(self._keys) and self._keys[at, 0] == first:
            number, row = self._places[at].tolist()
            if self._keys[at, 1] == second and (number, row) not in self._spoilt:
                yield number, row
            at += 1

    def __contains__(self, key: bytes) -> bool:
        return key in self.pending or next(self._find(key), None) is not None

    def read(
        self, keys: Sequence[bytes], pin: bool = False, reuse: bool = False
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Return the arrays of entries, and the rows of those that are not there.

        Args:
            keys: of the entries, one a row; empty of what has none.
            pin: into memory that copies to an accelerator wait for nobody from.
            reuse: into the memory of the last call, which the caller is done with: new memory
                costs more than what is read into it.
        """
        arrays = self._memory if reuse and self._rows == len(keys) else self._new(len(keys), pin)
        if reuse:
            self._memory, self._rows = arrays, len(keys)
        bits = {name: bits_of(array) for name, array in arrays.items()}
        rows = enumerate(keys)
        missing = [row for row, key in rows if not (key and self._read(key, bits, row, arrays))]
        return arrays, missing

    def _new(self, rows: int, pin: bool = False) -> dict[str, Tensor]:
        return {
            name: torch.empty((rows, *shape), dtype=dtype, pin_memory=pin)
            for name, (dtype, shape) in self.layout.items()
        }

    def _read(self, key: bytes, into: Bits, row: int, arrays: Mapping[str, Tensor]) -> bool:
        if key in self.pending:
            for name, array in self.pending[key].items():
                arrays[name][row] = array
            return True
        for number, place in self._find(key):
            if self._sound(number, place, into, row):
                return True
        return False

    def _sound(self, number: int, place: int, into: Bits, row: int) -> bool:
        """Copy an entry; remember it where it is damaged."""
        shard = self._shards[number]
        assert shard is not None  # no index, no entry
        try:
            shard.read(place, into, row)
        except DamagedShard as error:
            self._spoilt.add((number, place))
            self.damaged.append(str(error))
            return False
        self._mapped.pop(number, None)
        self._mapped[number] = None
        if len(self._mapped) > _OPEN_MAPS:
            oldest = self._shards[next(iter(self._mapped))]
            del self._mapped[next(iter(self._mapped))]
            if oldest is not None:
                oldest.close()
        return True

    def verify(self) -> int:
        """Read every entry of every shard; return how many are sound, `damaged` tells the rest."""
        bits = {name: bits_of(array) for name, array in self._new(1).items()}
        places = [(n, row) for n, s in enumerate(self._shards) if s for row in range(len(s))]
        return sum(self._sound(number, row, bits, 0) for number, row in places)
