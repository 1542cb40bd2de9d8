"""What an image processor of transformers does to an image, read from its file.

    processor_config.json        transformers 5: its entry `image_processor`
    preprocessor_config.json     transformers 4, and 5 where an image processor is saved alone

Whoever reads such a file reads it here: the encoder, the experts and the conformance kit. The
library prefers the first file where both are there, and so does this. It needs neither torch nor
transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tove_plugins.specs import Interpolation

__all__ = ["FILES", "ImageProcessor", "read_image_processor"]

FILES = ("processor_config.json", "preprocessor_config.json")
_Triple = tuple[float, float, float]
# As PIL numbers them; what it calls otherwise becomes the family's own.
_INTERPOLATION: dict[object, Interpolation] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """What a file says of an image's way into a network; None where it says nothing.

    Attributes:
        file: Where it was read.
        size: (height, width) in pixels of what the network is handed: the crop where the processor
            crops, else its size, the shorter edge made square.
        mean: Of each channel, subtracted after scaling to `value_range`.
        std: Of each channel, divided by afterwards.
        value_range: What black and white are before the normalisation.
        interpolation: How the image is resized.
        normalises: False where the processor leaves out mean and std; they are 0 and 1 then.
    """

    file: Path
    size: tuple[int, int] | None
    mean: _Triple | None
    std: _Triple | None
    value_range: tuple[float, float]
    interpolation: Interpolation | None
    normalises: bool


def read_image_processor(folder: Path) -> ImageProcessor | None:
    """Read the image processor's file in a folder; None where there is none.

    An entry that is null counts as left out; one number for all channels as three.

    Args:
        folder: What `save_pretrained` wrote.

    Raises:
        ValueError: The file is no JSON object, or an entry is not what it should be.
    """
    for name in FILES:
        said = _read(folder / name)
        if said is not None:
            try:
                return _parse(folder / name, said)
            except (TypeError, ValueError, KeyError) as error:
                raise ValueError(
                    f"{folder / name} cannot be read as an image processor ({error}); fetch it "
                    "again, or write it with save_pretrained() of the model's image processor."
                ) from error
    return None


def _read(file: Path) -> Mapping[str, Any] | None:
    """Give the entries of an image processor, without those that say nothing."""
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); fetch it again.") from error
    if file.name == FILES[0]:  # transformers 4 has one as well, without an image processor in it
        content = content.get("image_processor") if isinstance(content, dict) else content
    if content is None:
        return None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object of an image processor; fetch it again.")
    return {name: value for name, value in content.items() if value is not None}


def _parse(file: Path, said: Mapping[str, Any]) -> ImageProcessor:
    normalises = bool(said.get("do_normalize", True))
    mean, std = _triple(said.get("image_mean")), _triple(said.get("image_std"))
    scale = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    return ImageProcessor(
        file=file,
        size=_size(said),
        mean=mean if normalises else (0.0, 0.0, 0.0),
        std=std if normalises else (1.0, 1.0, 1.0),
        value_range=(0.0, round(255 * scale, 6)),
        interpolation=_INTERPOLATION.get(said.get("resample")),
        normalises=normalises,
    )


def _size(said: Mapping[str, Any]) -> tuple[int, int] | None:
    crops = said.get("do_center_crop", False) and said.get("crop_size")
    size = said.get("crop_size") if crops else said.get("size")
    if isinstance(size, Mapping):
        sides = (size.get("height"), size.get("width"))
        height, width = sides if None not in sides else (size.get("shortest_edge"),) * 2
        return None if height is None or width is None else (int(height), int(width))
    return None if size is None else (int(size), int(size))


def _triple(value: float | Sequence[float] | None) -> _Triple | None:
    if value is None:
        return None
    red, green, blue = (value,) * 3 if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)
