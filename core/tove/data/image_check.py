"""Which images of a data set are missing, misnamed or damaged, told before hours are spent.

The best-known trouble with LLaVA's data: OCR-VQA's images are named .jpg throughout, but some are
downloaded as .gif or .png, and some not at all.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial

from PIL import Image

from tove.data.image_io import CorruptImage, image_suffixes, load_image

__all__ = ["ImageReport", "check_images", "find_image"]

_SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "TIFF": (".tif", ".tiff")}


@dataclass(slots=True)
class ImageReport:
    """What was found, by path.

    Attributes:
        num_images: how many were looked at.
        missing: no file of that name, nor one with another suffix.
        misnamed: no file of that name, but one with another suffix, which is read in its place.
        other_kind: the file holds another kind of image than its suffix says, such as "GIF"; it
            is read as what it is.
        corrupt: the file cannot be read; with the cause.
    """

    num_images: int = 0
    missing: list[str] = field(default_factory=list)
    misnamed: dict[str, str] = field(default_factory=dict)
    other_kind: dict[str, str] = field(default_factory=dict)
    corrupt: dict[str, str] = field(default_factory=dict)

    @property
    def num_unreadable(self) -> int:
        """Number of images that training will not see."""
        return len(self.missing) + len(self.corrupt)

    def __str__(self) -> str:
        parts = {
            "missing": self.missing,
            "damaged": [f"{path} ({cause})" for path, cause in self.corrupt.items()],
            "under another suffix": [f"{path} is {found}" for path, found in self.misnamed.items()],
            "of another kind": [f"{path} is a {kind}" for path, kind in self.other_kind.items()],
        }
        told = [f"{len(found)} {what}, first {found[0]}" for what, found in parts.items() if found]
        return f"{self.num_images} images: {'; '.join(told) or 'all there'}."


def find_image(path: str) -> str | None:
    """Return where an image is: at `path`, or beside it under another suffix; None if nowhere."""
    if os.path.isfile(path):
        return path
    folder, name = os.path.split(path)
    found = _stems(folder).get(os.path.splitext(name)[0])
    return os.path.join(folder, found) if found else None


def check_images(paths: Iterable[str], decode: bool = False, threads: int = 8) -> ImageReport:
    """Look at every image.

    Args:
        paths: of distinct images.
        decode: decode them whole, which finds truncated ones at milliseconds each; else their
            heads are read.
        threads: that look at once; they wait for the disk most of the time.
    """
    report = ImageReport()
    _stems.cache_clear()  # files may have come since
    with ThreadPoolExecutor(threads) as pool:
        for path, found, kind, cause in pool.map(partial(_look, decode=decode), paths):
            report.num_images += 1
            if found is None:
                report.missing.append(path)
                continue
            if found != path:
                report.misnamed[path] = found
            if cause:
                report.corrupt[path] = cause
            elif kind:
                report.other_kind[found] = kind
    return report


def _look(path: str, decode: bool) -> tuple[str, str | None, str, str]:
    """Return a path, where its file is, the kind that its suffix does not say, and the damage."""
    found = find_image(path)
    if found is None:
        return path, None, "", ""
    try:
        with Image.open(found) as image:
            kind = image.format or ""
        if decode:
            load_image(found)
    except (OSError, SyntaxError, ValueError, CorruptImage) as error:
        return path, found, "", str(error)
    except Image.DecompressionBombError:  # large, which is no damage: `load_image` has a limit
        return path, found, "", ""
    suffix = os.path.splitext(found)[1].lower()
    told = suffix in _SUFFIXES.get(kind, (f".{kind.lower()}",)) or suffix not in image_suffixes()
    return path, found, "" if told else kind, ""


@lru_cache(maxsize=64)
def _stems(folder: str) -> dict[str, str]:
    """Return the images of a folder by their names without suffix."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    return {
        stem: name
        for stem, suffix in map(os.path.splitext, reversed(names))
        if suffix.lower() in image_suffixes()
        for name in [stem + suffix]
    }
