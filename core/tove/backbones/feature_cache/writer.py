"""Puts entries into a table: gathered in memory, committed as shards under names of its own."""

import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tove.backbones.feature_cache.shards import SUFFIX, write_shard
from tove.backbones.feature_cache.table import Table
from tove.errors import CheckpointError

__all__ = ["TableWriter", "free_bytes", "remove_abandoned"]

_SECONDS = 60.0  # that a kill may cost
_ABANDONED = 24 * 3600.0  # seconds after which nobody still writes to a temporary file


class TableWriter:
    """Writes to one table.

    Args:
        table: also tells what is there already, which is not written again.
        shard_mb: size at which a shard is committed, in units of 10^6 bytes; a minute after the
            last one it is committed as it is.
    """

    def __init__(self, table: Table, shard_mb: float) -> None:
        self.table, self.shard_bytes = table, int(shard_mb * 1e6)
        self.name, self._process = secrets.token_hex(8), os.getpid()
        self.written = 0
        self._number, self._bytes, self._since = 0, 0, time.monotonic()

    def add(self, keys: Sequence[bytes], arrays: Mapping[str, Tensor]) -> None:
        """Keep entries that are not there; commit a shard where there are enough."""
        if self._process != os.getpid():  # a fork writes under its own name
            self.__init__(self.table, self.shard_bytes / 1e6)  # type: ignore[misc]
            self.table.pending.clear()
        rows = {name: array.detach().cpu() for name, array in arrays.items()}
        for row, key in enumerate(keys):
            if key not in self.table:
                entry = {name: array[row].clone() for name, array in rows.items()}
                self.table.pending[key] = entry
                self._bytes += sum(a.numel() * a.element_size() for a in entry.values())
        if self._bytes >= self.shard_bytes or time.monotonic() - self._since > _SECONDS:
            self.commit()

    def commit(self) -> None:
        """Write what is gathered as one shard, and look for what others have written.

        Raises:
            CheckpointError: it cannot be written; shards that were committed stay.
        """
        self._since = time.monotonic()
        pending = self.table.pending
        if not pending:
            self.table.refresh()
            return
        keys = np.frombuffer(b"".join(pending), np.uint8).reshape(-1, 16).copy()
        arrays = {n: torch.stack([e[n] for e in pending.values()]) for n in self.table.layout}
        path = self.table.folder / f"{self.name}-{self._number:05d}{SUFFIX}"
        try:
            write_shard(path, self.table.key, keys, arrays, self.table.state)
        except CheckpointError as error:
            raise CheckpointError(
                f"The token cache in {path.parent} cannot grow: {error.__cause__ or error}. All "
                "shards that were finished are kept; make room (see `cache --dry-run` for the "
                "size) and run the same command again, which goes on from them."
            ) from error
        self._number, self._bytes = self._number + 1, 0
        self.written += len(keys)
        pending.clear()
        self.table.refresh()


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files that a killed writer left more than a day ago."""
    for path in folder.rglob(".*.tmp"):
        if time.time() - path.stat().st_mtime > _ABANDONED:
            path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Return the room on the disk of a folder that need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
