"""Frozen networks give the same tokens for the same view: they cost once.

One switch of a model. In memory for the length of a run, on disk for all runs and machines:

    token_cache = dict(max_gb=2.0)
    token_cache = dict(dir="cache/coco", mode="read", codec="pool+bf16",
                       experts=dict(depth=dict(codec="pool+pca256+int8"), dino=dict(mode="off")))

Shapes: B batch, M tokens, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from torch import Tensor

from tove.backbones.feature_cache.codecs import DEFAULT, Codec
from tove.backbones.feature_cache.disk import DiskStore, OpenTable
from tove.backbones.feature_cache.key import Source
from tove.backbones.feature_cache.memory import MemoryStore
from tove.backbones.feature_cache.remote import is_url, local_folder
from tove.config.validation import Range, check_arguments
from tove.errors import ConfigError

__all__ = ["Mode", "TokenCache"]

Mode = Literal["off", "read", "write", "read-through"]
_READING = {"off", "read"}


class TokenCache:
    """Where a model's frozen tokens are looked for before they are computed.

    Args:
        max_gb: budget in memory, in units of 10^9 bytes; None keeps nothing there.
        dir: folder on disk, or an address that fsspec knows (s3://...), which is read alone; None
            keeps nothing there.
        mode: of the folder, see `tove.backbones.feature_cache.disk`.
        codec: how tokens are stored there, see `tove.backbones.feature_cache.codecs`.
        experts: dict(mode=..., codec=...) by slot where one has its own; "clip" is the encoder.
        shard_mb: size of a file, in units of 10^6 bytes.

    Raises:
        ConfigError: a mode or codec that there is not, a mode without a folder, or one that writes
            to an address.
    """

    def __init__(
        self,
        max_gb: Annotated[float, Range(0)] | None = None,
        dir: str | None = None,
        mode: Mode = "read-through",
        codec: str = DEFAULT,
        experts: Mapping[str, Any] | None = None,
        shard_mb: Annotated[float, Range(0, above=True)] = 128.0,
    ) -> None:
        self.max_gb = max_gb
        self.mode, self.codec = mode, codec
        self.experts = {slot: dict(own) for slot, own in (experts or {}).items()}
        for slot, own in self.experts.items():
            check_arguments(_own, own, f"model.token_cache.experts.{slot}")
        self.memory = None if max_gb is None else MemoryStore(max_gb)
        writing = {mode, *(own.get("mode", mode) for own in self.experts.values())} - _READING
        if dir is not None and is_url(dir) and writing:
            raise ConfigError(
                f"model.token_cache.dir is the address {dir!r}, which is read alone, and the mode "
                f"is {min(writing)!r}; set mode='read', or extract into a folder here and copy it "
                "there with `cache CONFIG --copy-to ADDRESS`."
            )
        self.disk = None if dir is None else DiskStore(local_folder(dir), shard_mb)
        if self.disk is None and (self.experts or mode != "read-through"):
            raise ConfigError(
                "model.token_cache has a mode or experts of its own, but no dir; name the folder "
                "where tokens are kept."
            )
        if mode not in get_args(Mode):
            raise ConfigError(f"model.token_cache.mode is {mode!r}; give one of {get_args(Mode)}.")

    @property
    def folder(self) -> Path:
        """The folder on disk."""
        assert self.disk is not None
        return self.disk.folder

    def anew(self) -> "TokenCache | None":
        """Return a cache for a model whose encoder is not the config's: it knows nothing yet."""
        return None if self.max_gb is None else TokenCache(self.max_gb)

    def mode_of(self, slot: str) -> str:
        """Return how a slot uses the folder."""
        return "off" if self.disk is None else self.experts.get(slot, {}).get("mode", self.mode)

    def codec_of(self, source: Source, pooled: tuple[int, int]) -> Codec:
        """Return how a network's tokens are stored.

        Args:
            source: the network.
            pooled: the encoder's grid.
        """
        text = self.experts.get(source.slot, {}).get("codec", self.codec)
        return Codec(text, source, pooled)

    def grid_of(self, source: Source, pooled: tuple[int, int]) -> tuple[int, int]:
        """Return the grid of the tokens that a model is given."""
        if self.mode_of(source.slot) == "off":
            return source.grid
        return self.codec_of(source, pooled).grid

    def open(self, source: Source, pooled: tuple[int, int], view: int) -> OpenTable | None:
        """Return a network's table; None where the folder is not used for it.

        Args:
            source: the network.
            pooled: the encoder's grid.
            view: side of the views, in pixels.
        """
        mode = self.mode_of(source.slot)
        if self.disk is None or mode == "off":
            return None
        return self.disk.open(source, self.codec_of(source, pooled), mode, view)

    def get_or_compute(
        self,
        source: Source,
        pooled: tuple[int, int],
        image_ids: Sequence[str] | None,
        images_BCHW: Tensor,
        compute: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return tokens [B, M, D] on the images' device; the missing ones run as one batch.

        Args:
            source: the frozen network.
            pooled: the encoder's grid.
            image_ids: one id per image, a `ViewKey` where its pixels need not be looked at.
            images_BCHW: the batch in [0, 1], [B, 3, S, S]; [B, 3, 0, S] where all are known.
            compute: maps a batch of images to their tokens.
        """
        opened = self.open(source, pooled, images_BCHW.shape[-1])
        if image_ids is None:  # of no data set: nothing is looked for, and nothing kept
            tokens_BMD = compute(images_BCHW)
            return tokens_BMD if opened is None else opened.through_codec(tokens_BMD)

        def missing(rows: list[int]) -> Tensor:
            whole = len(rows) == len(image_ids)
            images = images_BCHW if whole else images_BCHW[rows]
            if opened is None or self.disk is None:
                return compute(images)
            ids = [image_ids[row] for row in rows]
            return self.disk.get_or_compute(opened, ids, images, compute)

        if self.memory is None:
            return missing([*range(len(image_ids))])
        side = tuple(images_BCHW.shape[2:]) if images_BCHW.numel() else images_BCHW.shape[-1:] * 2
        key = f"{source.slot} {source.settings} {side}"
        return self.memory.get_or_compute(key, image_ids, missing, images_BCHW.device)


def _own(mode: Mode = "read-through", codec: str = DEFAULT) -> None:
    """What an expert may have of its own."""
