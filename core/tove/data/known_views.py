"""Which image files have a view whose frozen tokens are all kept: such an image is not decoded.

A file is known by the digest of its bytes, of the view that is made of it and of the library that
decodes it; what the views' pixels are was written down when tokens were extracted.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import PIL
from torch import Tensor

from tove.data.image_io import Crop, ViewName, decoded_side, load_image, shared_view
from tove.data.wrappers import inner_data_sets
from tove.modules.view_key import ViewKey, view_digest

__all__ = ["KnownViews", "each_image_dataset", "file_views", "load_view", "view_key"]


def load_view(path: str, size: int, view: ViewName) -> Tensor:
    """Return a file's view, uint8 [3, S, S]."""
    return shared_view(load_image(path, decoded_side(size, view)), size, view)


def view_key(
    pixels: Tensor, size: int, view: ViewName, load: Callable[[], Tensor] | None = None
) -> ViewKey:
    """Return the key of a view, uint8 [3, S, S], which `load` gives again."""
    mirrored = isinstance(view, Crop) and view.mirrored
    other = view_digest(pixels.flip(-1)) if mirrored else ""
    return ViewKey(view_digest(pixels), size, load, other)


def file_views(key: ViewKey, path: str, size: int, view: ViewName) -> list[tuple[bytes, str]]:
    """Return what is to be known of a file's view: 16 bytes of file and view, and its digest.

    Of a mirrored view also those of the one that it mirrors; of what cannot be read nothing.
    """
    files = _file_keys(path, size, view)
    return [*zip(files, (str(key), key.mirror_of), strict=False)]


def _file_keys(path: str, size: int, view: ViewName) -> Iterator[bytes]:
    """Yield the key of a file's view, then that of the view that it mirrors, if it does."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return
    views = [view]
    if isinstance(view, Crop) and view.mirrored:
        views.append(replace(view, mirrored=False))
    for one in views:
        digest = hashlib.sha256(f"{size} {one} Pillow {PIL.__version__} ".encode())
        digest.update(content)
        yield digest.digest()[:16]


class KnownViews:
    """Finds the views whose tokens are all kept.

    Args:
        view_of: gives the digest of a file's view by the key of `file_views`, or None.
        is_known: tells whether all tokens of a view are kept.
    """

    def __init__(
        self, view_of: Callable[[bytes], str | None], is_known: Callable[[ViewKey], bool]
    ) -> None:
        self.view_of, self.is_known = view_of, is_known

    def find(self, path: str, size: int, view: ViewName) -> ViewKey | None:
        """Return the key of a file's view; None if its tokens are not all known."""
        digests = [self.view_of(key) for key in _file_keys(path, size, view)]
        known = [digest for digest in digests if digest is not None]
        if not known or len(known) < len(digests):
            return None
        key = ViewKey(known[0], size, partial(load_view, path, size, view), "".join(known[1:]))
        return key if self.is_known(key) else None


def each_image_dataset(dataset: Any) -> list[Any]:  # noqa: ANN401 - any data set
    """Return the data sets inside mmengine's wrappers that can name views by their pixels."""
    return [leaf for leaf in inner_data_sets(dataset) if hasattr(leaf, "names_views")]
