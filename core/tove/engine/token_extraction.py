"""Fills a folder with the tokens of a config's frozen networks for all images of its data sets.

First a sample of the images, by which codecs are fitted and judged; then all. What is there already
is not computed again, so an interrupted extraction goes on when the command is given again, and
several processes and machines may fill one folder.
"""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier, get_dist_info, is_main_process
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.experts.licences import expert_terms
from tove.backbones.experts.registration import expert_spec
from tove.backbones.feature_cache.card import NOT_TOLD, write_card
from tove.backbones.feature_cache.disk import OpenTable
from tove.backbones.feature_cache.files import AllKnown, FileViews
from tove.backbones.feature_cache.fitted import ERRORS, fit, read_fitted
from tove.backbones.feature_cache.sources import frozen_sources
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.backbones.feature_cache.writer import TableWriter, free_bytes, remove_abandoned
from tove.config.build import build_part
from tove.config.overlay import plain_settings
from tove.data.known_views import KnownViews
from tove.engine.distinct_views import DistinctViews, Views, collate_views, distinct_views
from tove.engine.progress import passing
from tove.errors import ConfigError
from tove.registry import ENCODERS

__all__ = ["Extraction", "cache_of", "chosen_slots", "folder_of", "scattered"]

_FITTED, _HELD_OUT = 256, 64  # images that a codec is fitted to, and judged on
_RUN = 16  # images that follow each other on disk
_MAX_ROWS = 50_000  # tokens of each of the two: enough for 1,024 directions


def folder_of(cfg: Config) -> str:
    """Return the folder, or the address, of the cache that a config's model has on disk.

    Raises:
        ConfigError: it has none.
    """
    place: str | None = (cfg.model.get("token_cache") or {}).get("dir")
    if not place:
        raise ConfigError(
            "model.token_cache of the config names no folder; give it one, such as "
            "--cfg-options \"model.token_cache={'dir': 'cache'}\"."
        )
    return place


def cache_of(cfg: Config) -> TokenCache:
    """Return the cache that a config's model has on disk, to be filled.

    Raises:
        ConfigError: it has none, or has it at an address.
    """
    settings = plain_settings({**(cfg.model.get("token_cache") or {}), "dir": folder_of(cfg)})
    settings.pop("max_gb", None)
    own = {s: {**o, "mode": "read-through"} for s, o in settings.get("experts", {}).items()}
    return TokenCache(**{**settings, "mode": "read-through", "experts": own})


def chosen_slots(cfg: Config, wanted: Sequence[str] | None) -> list[str]:
    """Return the slots whose tokens are extracted; "clip" is the encoder.

    Args:
        cfg: the config.
        wanted: of the user; None is all that the config does not switch off.

    Raises:
        ConfigError: there is no such slot.
    """
    cache = plain_settings(cfg.model.get("token_cache") or {})
    detached = cfg.model.get("detached", ())
    slots = ["clip", *(s for s in cfg.model.get("experts", {}) if s not in detached)]
    for slot in wanted or ():
        if slot not in slots:
            raise ConfigError(
                f"--experts names '{slot}'; the config has {', '.join(slots)} (clip: the encoder)."
            )
    own = cache.get("experts") or {}
    modes = {slot: own.get(slot, {}).get("mode", cache.get("mode")) for slot in slots}
    return list(wanted or [slot for slot in slots if modes[slot] != "off"])


def scattered(numbers: Sequence[int]) -> list[int]:
    """Return numbers by runs of some, the runs in an order that differs from call to call.

    Processes that know of each other by their files alone then seldom compute the same; two that
    went through all in one order would do the rest side by side once one has reached the other.
    """
    runs = [numbers[first : first + _RUN] for first in range(0, len(numbers), _RUN)]
    random.SystemRandom().shuffle(runs)
    return [number for run in runs for number in run]


@dataclass
class Extraction:
    """The networks and images of one extraction.

    Args:
        cfg: checked, data there.
        slots: see `chosen_slots`.
        console: where the progress is shown.
        data_licence: of the images, for the card.
        batch_size: images at once; None is the config's.
    """

    cfg: Config
    slots: Sequence[str]
    console: Console
    data_licence: str = NOT_TOLD
    batch_size: int | None = None
    written: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.cache = cache_of(self.cfg)
        self.device = torch.device(get_device())
        assert self.cache.disk is not None
        self.folder: Path = self.cache.disk.folder
        model = self.cfg.model
        self.experts = {s: plain_settings(c) for s, c in model.get("experts", {}).items()}
        self.encoder: Any = build_part(plain_settings(model.encoder), ENCODERS)
        self.encoder.requires_grad_(False).to(self.device)
        left_out = [slot for slot in self.experts if slot not in self.slots]
        self.hub = ExpertHub(self.experts, left_out).to(self.device)
        self.sources = frozen_sources(self.encoder, self.hub, self.experts, None)

    def run(self) -> int:
        """Extract what is not there yet; return how many entries this process wrote."""
        remove_abandoned(self.folder)
        views = FileViews(self.folder)
        parts = distinct_views(self.cfg)
        for part in parts:
            part.known = KnownViews(views, AllKnown([*self._tables(part.size).values()]))
        self._check_room(parts)
        self._fit(parts)
        files = views.writer(self.cache.disk.shard_mb if self.cache.disk else 1.0)
        total = sum(len(self._share(part)) for part in parts)
        with passing("extraction", total, self.console, unit="images") as advance:
            for part in parts:
                tables = self._tables(part.size)
                self._commit(tables, files)  # finds what all processes have of the part before
                loader = self._loader(part, self._share(part))
                for batch in loader:
                    self._extract(batch, tables, files)
                    advance(loader.batch_size or 1)
                self._commit(tables, files)
                barrier()
        if is_main_process():
            self._write_card(parts)
        return self.written

    def _tables(self, view: int) -> dict[str, OpenTable]:
        opened = {s: self.cache.open(self.sources[s], self.encoder.grid, view) for s in self.slots}
        return {slot: table for slot, table in opened.items() if table is not None}

    def _share(self, part: DistinctViews) -> list[int]:
        """Return the images of this process, in an order of its own."""
        rank, world = get_dist_info()
        return scattered(range(rank, len(part), world))

    def _loader(self, part: DistinctViews, numbers: Sequence[int]) -> DataLoader:
        size = self.batch_size or int(self.cfg.get("batch_size", 32))
        workers = self.cfg.get("train_dataloader", {}).get("num_workers", 0)
        images = torch.utils.data.Subset(part, numbers)
        return DataLoader(images, size, num_workers=workers, collate_fn=collate_views)

    @torch.no_grad()
    def _tokens(self, slot: str, views_V3SS: Tensor) -> Tensor:
        images = views_V3SS.to(self.device).float().div_(255)
        tokens: Tensor = self.encoder(images) if slot == "clip" else self.hub.run(slot, images)
        return tokens

    def _extract(self, batch: Views, tables: Mapping[str, OpenTable], files: TableWriter) -> None:
        for slot, opened in tables.items():
            keys = [opened.key_of(key) for key in batch.keys]
            rows = [row for row, key in enumerate(keys) if key not in opened.table]
            rows = [*{keys[row]: row for row in rows}.values()]
            if rows and opened.writer is not None:
                tokens_BMD = self._tokens(slot, batch.pixels_V3SS[rows])
                fresh = opened.encode(tokens_BMD, [batch.keys[row] for row in rows])
                opened.writer.add([keys[row] for row in rows], fresh)
                self.written += len(rows)
        if batch.files:
            digests = FileViews.arrays([digest for _, digest in batch.files])
            files.add([key for key, _ in batch.files], digests)

    def _commit(self, tables: Mapping[str, OpenTable], files: TableWriter) -> None:
        for opened in tables.values():
            if opened.writer is not None:
                opened.writer.commit()
        files.commit()  # last: a file whose view is known has its tokens

    def _fit(self, parts: Sequence[DistinctViews]) -> None:
        """Fit and judge the codecs of tables that are new, on the largest data set's images."""
        largest = {part.size: part for part in sorted(parts, key=len)}
        opened = [(s, t, p) for p in largest.values() for s, t in self._tables(p.size).items()]
        if is_main_process():
            for slot, table, part in opened:
                if not (table.table.folder / ERRORS).exists():
                    self._fit_one(slot, table, part)
        barrier()
        for _, table, _ in opened:  # what another process has fitted
            read_fitted(table.codec, table.table.folder)

    def _fit_one(self, slot: str, opened: OpenTable, part: DistinctViews) -> None:
        source = self.sources[slot]
        each = max(2, min(_FITTED, _MAX_ROWS // (source.grid[0] * source.grid[1]), len(part) // 2))
        held = max(1, min(_HELD_OUT, each // 4, len(part) - each))
        step = max(1, len(part) // (each + held))
        numbers = [*range(0, len(part), step)][: each + held]
        whole = DistinctViews(part.dataset, part.numbers, None)
        tokens = [
            self._tokens(slot, batch.pixels_V3SS).float().cpu()
            for batch in self._loader(whole, numbers)
            if len(batch.keys)
        ]
        if not tokens:
            raise ConfigError(
                "No image of the data sets can be read, so there is no token to keep."
            )
        sample = torch.cat(tokens)
        cut = max(1, len(sample) * each // (each + held))
        fit(
            opened.codec,
            opened.table.folder,
            sample[:cut],
            sample[cut:] if cut < len(sample) else sample,
        )

    def _check_room(self, parts: Sequence[DistinctViews]) -> None:
        """Refuse what the disk cannot hold.

        Raises:
            ConfigError: it cannot.
        """
        needed = 0
        for part in parts:
            for opened in self._tables(part.size).values():
                missing = max(0, len(part) * part.views - len(opened.table))
                needed += missing * opened.codec.entry_bytes
        check_room(self.folder, needed)

    def _write_card(self, parts: Sequence[DistinctViews]) -> None:
        about = {}
        for part in parts:
            for slot, opened in self._tables(part.size).items():
                about[opened.table.key] = self._about(slot)
        data = [
            {
                "files": _files(p.dataset),
                "images": len(p),
                "licence": self.data_licence,
            }
            for p in parts
        ]
        write_card(self.folder, about, data)

    def _about(self, slot: str) -> dict[str, Any]:
        if slot == "clip":
            return {"pretrained": str(self.cfg.model.encoder.get("pretrained", ""))}
        terms = expert_terms(slot, self.experts[slot])
        spec = expert_spec(self.experts[slot]).spec.as_dict()
        return {"licence": terms.licence, "trained_on": terms.trained_on, "expert": spec}


def _files(dataset: Any) -> str:  # noqa: ANN401 - any data set with images
    """Name a data set by its annotation file, or else its folder of images, inside its root."""
    where = getattr(dataset, "ann_file", "") or dataset.data_prefix["img"]
    return os.path.relpath(where, dataset.data_root)


def check_room(folder: Path, needed: int) -> None:
    """Refuse an extraction that the disk cannot hold.

    Raises:
        ConfigError: it cannot.
    """
    free = free_bytes(folder)
    if needed > free:
        raise ConfigError(
            f"The tokens need {needed / 1e9:,.3f} GB and the disk of {folder} has "
            f"{free / 1e9:,.3f} GB free; choose another folder, a smaller codec (such as "
            "'pool+pca256+int8'), or fewer networks by --experts."
        )
