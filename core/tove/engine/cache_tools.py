"""What a token cache will take, and whether what is there is sound: both without any weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich import box
from rich.table import Table as RichTable

from tove.backbones.encoder_shape import encoder_tokens
from tove.backbones.experts.registration import expert_spec
from tove.backbones.feature_cache.card import tables_of
from tove.backbones.feature_cache.codecs import Codec
from tove.backbones.feature_cache.files import FileViews
from tove.backbones.feature_cache.fitted import read_fitted
from tove.backbones.feature_cache.key import Source
from tove.backbones.feature_cache.table import Table
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.config.overlay import plain_settings

__all__ = ["Estimate", "codec_of", "estimate", "estimate_table", "verify"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one network's tokens take.

    Attributes:
        slot: in the config.
        codec: as stored.
        raw_bytes: of one image in fp32 on the network's own grid.
        entry_bytes: of one image as stored.
    """

    slot: str
    codec: str
    raw_bytes: int
    entry_bytes: int


def estimate(cfg: Config, cache: TokenCache, slots: Sequence[str]) -> list[Estimate]:
    """Say what one image's tokens take, from specs and the encoder's config alone.

    Raises:
        ConfigError: the encoder's config is not at hand.
    """
    width, grid = encoder_tokens(plain_settings(cfg.model.encoder))
    found = []
    for slot in slots:
        source = Source("clip", "", width, grid, False, dict)
        if slot != "clip":
            tokens = expert_spec(cfg.model.experts[slot]).spec.tokens
            is_map = tokens.kind == "map"
            source = Source(slot, "", tokens.width, tokens.grid, is_map, dict)
        codec = cache.codec_of(source, grid)
        raw = 4 * source.grid[0] * source.grid[1] * source.width
        found.append(Estimate(slot, codec.text, raw, codec.entry_bytes))
    return found


def estimate_table(estimates: Sequence[Estimate], num_images: int, free: int) -> RichTable:
    """Lay estimates out for the console."""
    total = sum(entry.entry_bytes for entry in estimates) * num_images
    raw = sum(entry.raw_bytes for entry in estimates) * num_images
    caption = f"{total / 1e9:,.3f} GB of {raw / 1e9:,.3f} GB raw; {free / 1e9:,.1f} GB are free"
    table = RichTable(title=f"Tokens of {num_images:,} images", caption=caption, box=box.SIMPLE)
    for column in ("network", "codec", "KB an image", "GB", "GB raw, fp32"):
        table.add_column(column, justify="left" if column in ("network", "codec") else "right")
    for entry in estimates:
        table.add_row(
            entry.slot,
            entry.codec,
            f"{entry.entry_bytes / 1e3:,.1f}",
            f"{entry.entry_bytes * num_images / 1e9:,.3f}",
            f"{entry.raw_bytes * num_images / 1e9:,.3f}",
        )
    return table


def verify(folder: Path) -> Iterator[tuple[str, int, list[str]]]:
    """Yield, for each table of a folder, its name, its sound entries and what is damaged."""
    for place, told in tables_of(folder):
        if "codec" not in told:
            table = FileViews(folder).table
        else:
            codec = codec_of(told)
            table = Table(place, told["key"], codec.layout).refresh()
            read_fitted(codec, place)
        yield place.name, table.verify(), table.damaged


def codec_of(told: Mapping[str, Any]) -> Codec:
    """Return the codec of a table by its description."""
    tokens = told["source"]["spec"]["tokens"]
    is_map = tokens["kind"] == "map"
    source = Source(
        told["source"]["name"], "", tokens["width"], tuple(tokens["grid"]), is_map, dict
    )
    return Codec(told["codec"], source, tuple(told["stored"]["grid"]))
