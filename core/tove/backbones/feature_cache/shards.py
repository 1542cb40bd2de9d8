"""One file of a table: safetensors, many entries, each with its key and its checksum.

    tokens [R, N, K]  scale [R, K]    an entry's arrays, as the codec says
    keys [R, 16]  sums [R]            what an entry is known by; xxh3 of its key and arrays

The metadata names the table, and has the xxh3 of keys and sums. A shard is written beside its place
and renamed into it, so what has its name is whole, until a disk fails.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tove.atomic_io import atomic_writer
from tove.backbones.feature_cache.codecs import Layout
from tove.errors import ConfigError

__all__ = ["SUFFIX", "DamagedShard", "Shard", "write_shard"]

SUFFIX = ".safetensors"
_NAMES = {
    torch.float32: ("F32", np.float32),
    torch.bfloat16: ("BF16", np.int16),  # numpy knows no bfloat16: its bits
    torch.int8: ("I8", np.int8),
    torch.uint8: ("U8", np.uint8),
}
_INDEX: dict[str, tuple[str, type, tuple[int, ...]]] = {
    "keys": ("U8", np.uint8, (16,)),
    "sums": ("I64", np.int64, ()),
}


class DamagedShard(ConfigError):
    """Bytes of the cache are not those that were written."""


def bits_of(tensor: Tensor) -> np.ndarray:
    """Return a tensor's memory as numpy's."""
    tensor = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return tensor.numpy()


def checksum(key: bytes, arrays: Mapping[str, np.ndarray], row: int) -> int:
    """Return the signed xxh3 of an entry: its key, then its arrays in the order of their names."""
    import xxhash

    total = xxhash.xxh3_64(key)
    for name in sorted(arrays):
        total.update(arrays[name][row].data)
    return int(np.uint64(total.intdigest()).astype(np.int64))


def _index_sum(keys: np.ndarray, sums: np.ndarray) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(keys.tobytes() + sums.tobytes())


def write_shard(
    path: Path, table: str, keys: np.ndarray, arrays: Mapping[str, Tensor], state: str = ""
) -> None:
    """Write entries to a file, whole or not at all.

    Args:
        path: of the file.
        table: the table's key.
        keys: uint8 [R, 16].
        arrays: of the entries, R rows each.
        state: digest of what the codec was fitted to.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written to.
    """
    from safetensors.torch import save_file

    arrays = {name: array.contiguous() for name, array in arrays.items()}
    bits = {name: bits_of(array) for name, array in arrays.items()}
    sums = np.array([checksum(k.tobytes(), bits, r) for r, k in enumerate(keys)], dtype=np.int64)
    metadata = {"table": table, "index": _index_sum(keys, sums), "state": state}
    index = {"keys": torch.from_numpy(keys), "sums": torch.from_numpy(sums)}
    with atomic_writer(path) as stream:
        save_file({**arrays, **index}, stream.name, metadata)


class Shard:
    """A shard that is read: its index at once, its entries memory-mapped, each checked.

    Args:
        path: of the file.
        table: the key of its table.
        layout: of an entry.
        state: digest of what the codec was fitted to.

    Attributes:
        keys: uint8 [R, 16].

    Raises:
        DamagedShard: its header or index is not what was written.
    """

    def __init__(self, path: Path, table: str, layout: Layout, state: str = "") -> None:
        self.path, self._layout = path, layout
        self._maps: dict[str, np.ndarray] = {}
        try:
            header, begin, self._size = _header(path)
            self._offsets = _offsets(header, layout, begin, self._size)
            self.keys, self._sums = (np.array(self._map(name)) for name in _INDEX)
            told = header["__metadata__"]
            ours = {"table": table, "index": _index_sum(self.keys, self._sums), "state": state}
            wrong = [name for name in ours if told[name] != ours[name]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(f"its header cannot be read: {error}") from error
        if wrong:
            raise self._damaged(f"its {wrong[0]} is not what was written")

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, row: int, into: Mapping[str, np.ndarray], place: int) -> None:
        """Copy an entry's arrays into row `place` of others.

        Raises:
            DamagedShard: its checksum does not hold.
        """
        try:
            if os.stat(self.path).st_size < self._size:  # a map of what is not there would crash
                raise ValueError("it is shorter than it was")
            for name, array in into.items():
                array[place] = self._map(name)[row]
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        if checksum(self.keys[row].tobytes(), into, place) != self._sums[row]:
            raise self._damaged(f"the checksum of entry {row} does not hold")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": {}}  # a spawned worker maps the file anew

    def close(self) -> None:
        """Let go of the memory map; the next read makes it anew."""
        self._maps.clear()

    def _map(self, name: str) -> np.ndarray:
        if name not in self._maps:
            offset, shape, dtype = self._offsets[name]
            self._maps[name] = np.memmap(self.path, dtype, "r", offset, shape).view(np.ndarray)
        return self._maps[name]

    def _damaged(self, reason: str) -> DamagedShard:
        return DamagedShard(f"{self.path} is damaged: {reason}.")


def _header(path: Path) -> tuple[dict, int, int]:
    """Return a safetensors file's header, where its data begins, and its size."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if length > size - 8:
            raise ValueError("it ends in its header")
        return json.loads(stream.read(length)), 8 + length, size


def _offsets(
    header: dict, layout: Layout, begin: int, size: int
) -> dict[str, tuple[int, tuple[int, ...], type]]:
    """Return place, shape and dtype of each array, held against the layout and the file's size."""
    wanted = {name: (*_NAMES[dtype], shape) for name, (dtype, shape) in layout.items()} | _INDEX
    found, covered, rows = {}, 0, header["keys"]["shape"][0]
    if header.keys() != {*wanted, "__metadata__"}:
        raise ValueError(f"it has the arrays {', '.join(header)}")
    for name, (kind, dtype, shape) in wanted.items():
        first, last = header[name]["data_offsets"]
        length = int(np.prod((rows, *shape))) * np.dtype(dtype).itemsize
        told = header[name]["dtype"], tuple(header[name]["shape"]), last - first
        if told != (kind, (rows, *shape), length) or not 0 <= first <= last <= size - begin:
            raise ValueError(f"{name} is {told}")
        found[name] = begin + first, (rows, *shape), dtype
        covered += length
    if begin + covered != size:
        raise ValueError(f"it has {size} bytes and should have {begin + covered}")
    return found
