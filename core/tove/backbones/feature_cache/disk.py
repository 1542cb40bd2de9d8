"""Tokens on disk: for each frozen network a table, read, written or both as its mode says.

read           what is not there is an error; the network is not even built
write          computed, and kept where it is not there yet
read-through   read, and what is not there is computed and kept
off            computed

A model reads the same tokens whichever way they came: fresh ones go through the codec as well.
Of a network that mirrors (see `tove_plugins.TokenSpec`) a mirrored view's tokens are the mirrored
ones of the view that it mirrors, and kept as these.

Shapes: B batch, M tokens, D width.
"""

import atexit
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from tove.backbones.feature_cache.codecs import Codec
from tove.backbones.feature_cache.fitted import read_fitted
from tove.backbones.feature_cache.key import Source, entry_key, table_key
from tove.backbones.feature_cache.remote import is_copy
from tove.backbones.feature_cache.table import Table
from tove.backbones.feature_cache.writer import TableWriter
from tove.errors import ConfigError
from tove.modules.view_key import ViewKey, view_digests

__all__ = ["DiskStore", "OpenTable", "describe"]

_SHOWN = 3

Grid = tuple[int, int]


def describe(source: Source, codec: Codec, view: int) -> dict[str, Any]:
    """Say all that a table's tokens depend on."""
    return {
        "source": dict(source.describe()),
        "view": [view, view],
        "codec": codec.text,
        "stored": {"grid": list(codec.grid), "dtype": str(codec.dtype).removeprefix("torch.")},
    }


@dataclass
class OpenTable:
    """A table that a run uses, with its codec and, where it may grow, its writer."""

    table: Table
    codec: Codec
    mode: str
    writer: TableWriter | None
    description: Mapping[str, Any]
    mirrors: bool = False
    told: int = 0  # of the damages

    def key_of(self, view: str) -> bytes:
        """Return the key of a view's entry."""
        mirrored = self.mirrors and isinstance(view, ViewKey) and view.mirror_of
        return entry_key(self.table.key, mirrored or view)

    def encode(self, tokens_BMD: Tensor, views: Sequence[str | None]) -> dict[str, Tensor]:
        """Return the arrays of the entries of views."""
        return self.codec.encode(self._turn(tokens_BMD, self.codec.own_grid, views))

    def decode(self, arrays: Mapping[str, Tensor], views: Sequence[str | None]) -> Tensor:
        """Return the tokens of views, float32 [B, N, D], of their entries."""
        return self._turn(self.codec.decode(arrays), self.codec.grid, views)

    def _turned(self, view: str | None) -> bool:
        return self.mirrors and isinstance(view, ViewKey) and bool(view.mirror_of)

    def _turn(self, tokens_BMD: Tensor, grid: Grid, views: Sequence[str | None]) -> Tensor:
        rows = [row for row, view in enumerate(views) if self._turned(view)]
        if not rows:
            return tokens_BMD
        tokens_BMD = tokens_BMD.clone()
        tokens_BMD[rows] = tokens_BMD[rows].unflatten(1, grid).flip(2).flatten(1, 2)
        return tokens_BMD

    def through_codec(self, tokens_BMD: Tensor) -> Tensor:
        """Return tokens as they would be read."""
        _check_fitted(self)
        return self.codec.decode(self.codec.encode(tokens_BMD))


class DiskStore:
    """The tables of one folder.

    Args:
        folder: of the cache.
        shard_mb: see `TableWriter`.
    """

    def __init__(self, folder: Path, shard_mb: float) -> None:
        self.folder, self.shard_mb = folder, shard_mb
        self._open: dict[tuple[str, str, str, str, int], OpenTable] = {}
        atexit.register(self.commit)

    def open(self, source: Source, codec: Codec, mode: str, view: int) -> OpenTable:
        """Return a network's table for views of that side; one that may be written is made."""
        known = (source.slot, source.settings, codec.text, mode, view)
        if known not in self._open:
            description = describe(source, codec, view)
            key = table_key(description)
            folder = self.folder / f"{description['source']['name']}-{key[:16]}"
            table, writer = Table(folder, key, codec.layout).refresh(), None
            if mode != "read":
                table.describe(description)
                writer = TableWriter(table, self.shard_mb)
            read_fitted(codec, folder)
            told = mode, writer, description, source.mirrors
            self._open[known] = OpenTable(table, codec, *told)
        return self._open[known]

    def get_or_compute(
        self,
        opened: OpenTable,
        ids: Sequence[str],
        images_BCHW: Tensor,
        compute: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return tokens [B, M, D] on the images' device.

        Args:
            opened: of `open`.
            ids: of the views; those that are no `ViewKey` count for nothing, and the pixels are
                looked at.
            images_BCHW: in [0, 1]; without pixels where every view is known.
            compute: the network.

        Raises:
            ConfigError: in mode "read" an entry is missing or damaged.
        """
        table, codec = opened.table, opened.codec
        views = _views(ids, images_BCHW)
        keys = [opened.key_of(view) if view else b"" for view in views]
        device = images_BCHW.device
        if opened.mode == "write":
            arrays: dict[str, Tensor] = {}
            missing = list(range(len(keys)))
        else:
            on_cpu = device.type == "cpu"
            arrays, missing = table.read(keys, not on_cpu, reuse=on_cpu and codec.copies)
        self._tell_damage(opened, [ids[row] for row in missing])
        if not missing:
            return opened.decode(_moved(arrays, device), views)
        _check_fitted(opened)
        first = {keys[row] or row: row for row in reversed(missing)}  # twice in a batch, run once
        rows = sorted(first.values())
        tokens_BMD = _compute(compute, ids, images_BCHW, rows)
        fresh = opened.encode(tokens_BMD, [views[row] for row in rows])
        place = {row: number for number, row in enumerate(rows)}
        if opened.writer is not None:
            kept = [row for row in rows if keys[row]]
            picked = {n: a[[place[row] for row in kept]] for n, a in fresh.items()}
            opened.writer.add([keys[row] for row in kept], picked)
        if len(rows) == len(keys):
            return opened.decode(fresh, views)
        of = [place[first[keys[row] or row]] for row in missing]
        whole = _moved(arrays, device) if arrays else {}
        for name, array in fresh.items():
            if name not in whole:
                whole[name] = array.new_empty((len(keys), *array.shape[1:]))
            whole[name][missing] = array[of]
        return opened.decode(whole, views)

    def commit(self) -> None:
        """Write what the writers have gathered."""
        for opened in self._open.values():
            if opened.writer is not None:
                opened.writer.commit()

    def close(self) -> None:
        """Write what is left and let go of the tables."""
        self.commit()
        self._open.clear()
        atexit.unregister(self.commit)

    def _tell_damage(self, opened: OpenTable, missing: Sequence[str]) -> None:
        """Name what is damaged; in mode "read" that, or anything missing, is an error."""
        new = opened.table.damaged[opened.told :]
        opened.told += len(new)
        if opened.mode == "read" and missing:
            raise ConfigError(_refusal(opened, missing, new or opened.table.damaged))
        for sentence in new:
            print_log(
                f"{sentence} What it held is extracted anew.",
                logger="current",
                level=logging.WARNING,
            )


def _refusal(opened: OpenTable, missing: Sequence[str], damaged: Sequence[str]) -> str:
    folder, name = opened.table.folder, opened.description["source"]["name"]
    first = missing[0]
    what = (
        f"The token cache lacks the tokens of '{name}' for {len(missing)} images of a batch, "
        f"first {f'the view with digest {first[:12]}' if isinstance(first, ViewKey) else first}"
    )
    if damaged:
        why = f" {' '.join(damaged[:_SHOWN])}"
    elif len(opened.table) == 0:
        why = (
            f" There is no {folder}: the expert, its package's version, its weights or options, "
            "the view or the codec are not those that were extracted."
        )
    else:
        why = f" {folder} has {len(opened.table)} others."
    if is_copy(folder.parent):
        return (
            f"{what}.{why} The folder is a copy: once it is removed it is fetched again. What the "
            "address lacks is extracted where its own folder is, and copied there."
        )
    run = "Remove the damaged files and run" if damaged else "Run"
    return (
        f"{what}.{why} {run} `mim run tove_plugins cache CONFIG`, or set "
        "model.token_cache.mode='read-through'."
    )


def _check_fitted(opened: OpenTable) -> None:
    if not opened.codec.fitted:
        raise ConfigError(
            f"The codec {opened.codec.text!r} of '{opened.description['source']['name']}' has not "
            f"been fitted in {opened.table.folder}; run `mim run tove_plugins cache CONFIG` first, "
            "or choose one without pca."
        )


def _views(ids: Sequence[str], images_BCHW: Tensor) -> list[str | None]:
    """Return the digest of each view, told by its id or taken of its pixels."""
    if all(isinstance(view, ViewKey) for view in ids):
        return list(ids)
    return view_digests(images_BCHW)


def _compute(
    compute: Callable[[Tensor], Tensor], ids: Sequence[Any], images_BCHW: Tensor, rows: list[int]
) -> Tensor:
    """Run the network on some rows of a batch, in the precision that its settings say."""
    device = images_BCHW.device
    if not images_BCHW.numel():
        views = torch.stack([ids[row].load() for row in rows])
        chosen_BCHW = views.to(device).float().div_(255)
    else:
        chosen_BCHW = images_BCHW if len(rows) == len(ids) else images_BCHW[rows]
    with torch.autocast(device.type, enabled=False):
        return compute(chosen_BCHW)


def _moved(arrays: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: array.to(device, non_blocking=True) for name, array in arrays.items()}
