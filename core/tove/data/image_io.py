"""From an image file of any kind to the one square view that every network sees.

The geometry lives here only: token (i, j) of CLIP and of every expert is the same place of the
image because all of them start from `shared_view`.

Shapes: S side of the square view, in pixels.
"""

import io
import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tove.errors import ConfigError

__all__ = [
    "CorruptImage",
    "Crop",
    "TooManyCorruptImages",
    "ViewName",
    "decode_image",
    "decoded_side",
    "image_of",
    "image_suffixes",
    "load_image",
    "shared_view",
]

# PostScript is a program: Pillow gives it to Ghostscript. The others it knows and cannot decode.
_REFUSED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
MAX_PIXELS = 500_000_000  # decoded: 1.5 GB. JPEG files are decoded smaller, so photographs pass
_WHITES = {"I;16": (4095, 65535), "I": (255, 65535, 2**31 - 1), "F": (1, 255, 65535)}
_PAD_COLOUR = (122, 116, 104)  # CLIP's mean pixel: the padding is near zero once normalised


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image, in measures that do not depend on the size it is decoded at.

    Args:
        area: its share of the image's, above 0 to 1.
        ratio: its width over its height; it becomes as wide or high as the image where it is more.
        x: where it lies between the left border, 0, and the right one, 1.
        y: the same from the upper border to the lower one.
        mirrored: left and right exchanged.
    """

    area: float
    ratio: float
    x: float
    y: float
    mirrored: bool = False

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom in an image of that size, in pixels."""
        inner = self.area * width * height
        w, h = min(math.sqrt(inner * self.ratio), width), min(math.sqrt(inner / self.ratio), height)
        left, top = self.x * (width - w), self.y * (height - h)
        return left, top, min(left + w, width), min(top + h, height)


ViewName = str | Crop
"""How an image becomes a square: "crop", its central square; "pad", all of it; or a part of it."""


class CorruptImage(OSError):
    """A file that cannot be read as an image."""


class TooManyCorruptImages(ConfigError):
    """More unreadable images than the data set's `corrupt_limit`."""


@lru_cache
def _formats() -> tuple[str, ...]:
    """The formats that this Pillow decodes, those of photographs first."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _REFUSED)


@lru_cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of the names of files that can be read, in small letters with the dot."""
    formats = frozenset(_formats())
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in formats)


def load_image(path: str | Path, min_side: int | None = None) -> Image.Image:
    """Read an image upright and in RGB: EXIF rotation applied, transparency over white.

    Args:
        path: any file that Pillow reads, PostScript aside; grey, palette, RGBA, CMYK and 16-bit
            ones included.
        min_side: pixels that the shorter side should keep. Large JPEG files are then decoded at a
            fraction of their size, which is several times as fast.

    Returns:
        The image in mode RGB.

    Raises:
        CorruptImage: the file is missing, empty, truncated or not an image.
    """
    return _read(lambda: _open(path), path, min_side)


def decode_image(content: bytes, name: str, min_side: int | None = None) -> Image.Image:
    """Return as `load_image` would what a file's bytes hold.

    Args:
        content: the bytes.
        name: of the image, for the message.
        min_side: see `load_image`.

    Raises:
        CorruptImage: they are no image.
    """
    return _read(lambda: _opened(io.BytesIO(content)), name, min_side)


def image_of(source: Any, min_side: int | None = None) -> Image.Image:  # noqa: ANN401
    """Return as `load_image` would what a caller has of an image.

    Args:
        source: a path; Pillow's image, in any mode; or a tensor [3, H, W], uint8 or floating in
            [0, 1], on any device.
        min_side: see `load_image`.

    Raises:
        CorruptImage: none of them, or one that cannot be read.
    """
    if isinstance(source, str | Path):
        return load_image(source, min_side)
    if isinstance(source, Image.Image):
        try:
            return _decoded(source)
        except Exception as error:  # a file that was opened and is read only now
            raise CorruptImage(f"{source} cannot be read as an image: {error}") from error
    if not isinstance(source, Tensor) or source.dim() != 3 or len(source) != 3:
        what = f"a tensor {list(source.shape)}" if isinstance(source, Tensor) else repr(source)
        raise CorruptImage(
            f"{what} is no image; give a path, Pillow's image, or a tensor [3, H, W]."
        )
    if source.is_floating_point():
        source = (source.float() * 255).round().clamp(0, 255)
    return Image.fromarray(source.to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy())


def decoded_side(size: int, view: ViewName) -> int:
    """Return the least shorter side at which an image need be decoded for a view of side `size`."""
    if isinstance(view, str):
        return size
    return math.ceil(size / math.sqrt(view.area * min(view.ratio, 1 / view.ratio)))


def shared_view(image: Image.Image, size: int, view: ViewName = "crop") -> Tensor:
    """Cut or pad an RGB image to a square and resize it, bicubic and antialiased.

    Args:
        image: of any size.
        size: side S of the square.
        view: see `ViewName`; "pad" fills with CLIP's mean colour.

    Returns:
        uint8 tensor [3, S, S].
    """
    width, height = image.size
    if isinstance(view, Crop):
        square = image.resize((size, size), Image.Resampling.BICUBIC, box=view.box(width, height))
        if view.mirrored:
            square = ImageOps.mirror(square)
    elif view == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        box = (left, top, left + side, top + side)
        square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    else:
        scale = size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        square = Image.new("RGB", (size, size), _PAD_COLOUR)
        corner = (size - inner[0]) // 2, (size - inner[1]) // 2
        square.paste(image.resize(inner, Image.Resampling.BICUBIC), corner)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def _read(opened: Callable[[], Image.Image], name: str | Path, min_side: int | None) -> Image.Image:
    try:
        with opened() as image:
            if min_side is not None:
                image.draft("RGB", (2 * min_side, 2 * min_side))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS:,}")
            return _decoded(image)
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise CorruptImage(f"{name} cannot be read as an image: {error}") from error


def _open(path: str | Path) -> Image.Image:
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for without end
        raise ValueError("it is no regular file")
    return _opened(path)


def _opened(source: str | Path | io.BytesIO) -> Image.Image:
    """Open a file whatever its size; Pillow's own limit would refuse a phone's 200 megapixels."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(source, formats=_formats())
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _decoded(image: Image.Image) -> Image.Image:
    image.load()
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF around sound pixels: the picture is still good
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(_grey(image))
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _grey(image: Image.Image) -> np.ndarray:
    """Return 8-bit greys of wider ones: white is the lowest of their kind's whites not exceeded.

    Files of 16 bits hold 12 as often, those of 32 hold 8 or 16, and floats end at 1, 255 or 65,535.
    """
    grey = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    whites = _WHITES["I;16" if image.mode.startswith("I;16") else image.mode]
    if grey.min() < 0 or grey.max() > whites[-1]:
        raise ValueError(
            f"its greys go from {grey.min():g} to {grey.max():g}, of which none is known as white"
        )
    white = next(white for white in whites if grey.max() <= white)
    return (grey * (255 / white)).round().astype(np.uint8)
