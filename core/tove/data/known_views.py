"""Which image files have a view whose frozen tokens are all kept: such an image is not decoded.

A file is known by the digest of its bytes, of the view that is made of it and of the library that
decodes it; what the views' pixels are was written down when tokens were extracted.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import PIL
from torch import Tensor

from tove.data.image_io import load_image, shared_view
from tove.data.wrappers import inner_data_sets
from tove.modules.view_key import ViewKey

__all__ = ["KnownViews", "each_image_dataset", "file_key", "load_view"]


def file_key(path: str, size: int, view: str) -> bytes | None:
    """Return 16 bytes that tell a file's content and its view; None if it cannot be read."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    digest = hashlib.sha256(f"{size} {view} Pillow {PIL.__version__} ".encode())
    digest.update(content)
    return digest.digest()[:16]


def load_view(path: str, size: int, view: str) -> Tensor:
    """Return a file's view, uint8 [3, S, S]."""
    return shared_view(load_image(path, size), size, view)


class KnownViews:
    """Finds the views whose tokens are all kept.

    Args:
        view_of: gives the digest of a file's view by `file_key`, or None.
        is_known: tells whether all tokens of a view are kept.
    """

    def __init__(
        self, view_of: Callable[[bytes], str | None], is_known: Callable[[str], bool]
    ) -> None:
        self.view_of, self.is_known = view_of, is_known

    def find(self, path: str, size: int, view: str) -> ViewKey | None:
        """Return the key of a file's view; None if its tokens are not all known."""
        key = file_key(path, size, view)
        digest = None if key is None else self.view_of(key)
        if digest is None or not self.is_known(digest):
            return None
        return ViewKey(digest, size, partial(load_view, path, size, view))


def each_image_dataset(dataset: Any) -> list[Any]:  # noqa: ANN401 - any data set
    """Return the data sets inside mmengine's wrappers that can name views by their pixels."""
    return [leaf for leaf in inner_data_sets(dataset) if hasattr(leaf, "names_views")]
