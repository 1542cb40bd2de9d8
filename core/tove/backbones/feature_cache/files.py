"""Which view an image file has: found without decoding it, once its tokens were extracted.

views-KEY/ is a table of its own, checked as the others are: 32 bytes, the digest of a view's
pixels, by the key that `tove.data.known_views` makes of a file's bytes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from tove.backbones.feature_cache.codecs import Layout
from tove.backbones.feature_cache.disk import OpenTable
from tove.backbones.feature_cache.key import table_key
from tove.backbones.feature_cache.table import Table
from tove.backbones.feature_cache.writer import TableWriter
from tove.modules.view_key import ViewKey

__all__ = ["AllKnown", "FileViews"]

_LAYOUT: Layout = {"view": (torch.uint8, (32,))}
_OF = {"source": {"name": "views"}, "of": "the bytes of image files"}


class FileViews:
    """The digests of views by file.

    Args:
        folder: of the cache.
    """

    def __init__(self, folder: Path) -> None:
        key = table_key(_OF)
        self.table = Table(folder / f"views-{key[:16]}", key, _LAYOUT).refresh()

    def __call__(self, key: bytes) -> str | None:
        """Return the digest of the view of the file with that key; None if it is not known."""
        arrays, missing = self.table.read([key])
        return None if missing else arrays["view"][0].numpy().tobytes().hex()

    def writer(self, shard_mb: float) -> TableWriter:
        """Return what adds to them."""
        self.table.describe(_OF)
        return TableWriter(self.table, shard_mb)

    @staticmethod
    def arrays(digests: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the entries of views."""
        content = bytearray(b"".join(bytes.fromhex(digest) for digest in digests))
        return {"view": torch.frombuffer(content, dtype=torch.uint8).view(-1, 32)}


class AllKnown:
    """Tells whether all of some tables have a view's tokens."""

    def __init__(self, tables: Sequence[OpenTable]) -> None:
        self.tables = [(opened.table, opened.key_of) for opened in tables]

    def __call__(self, view: ViewKey) -> bool:
        """Tell whether they do."""
        return all(key_of(view) in table for table, key_of in self.tables)
