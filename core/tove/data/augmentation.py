"""Crops and mirrored images for training: a fixed number of views of each image.

    view 0   the plain one, which evaluation sees
    view k   a crop of share a ~ U(scale) of the image and of sides r = width / height,
             log r ~ U(log ratio), at a place drawn uniformly; mirrored with chance `flip`

as RandomResizedCrop draws it. A view depends on the seed, the image's name and its number alone, so
that it comes again in any epoch, run, worker and process, and its frozen tokens can be kept.
"""

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from tove.config.validation import Range, check_arguments
from tove.data.image_io import Crop
from tove.errors import ConfigError

__all__ = ["Augmentation", "augmentation_of"]

_Share = Annotated[float, Range(0, 1, above=True)]
_Sides = Annotated[float, Range(0, above=True, below=True)]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The views of each image of a training data set.

    Args:
        views: of each image; 1 is the plain one alone.
        scale: least and largest share of the image's area in a crop.
        ratio: least and largest width of a crop over its height, before it is made square.
        flip: chance that a view is mirrored; texts that say left or right turn false by it.
        seed: of the draws; not the run's, so that runs share views, and tokens.
    """

    views: Annotated[int, Range(1)] = 1
    scale: tuple[_Share, _Share] = (0.9, 1.0)
    ratio: tuple[_Sides, _Sides] = (3 / 4, 4 / 3)
    flip: Annotated[float, Range(0, 1)] = 0.0
    seed: int = 0

    def crop(self, name: str, number: int) -> Crop:
        """Return the view of the image of that name with that number, from 1."""
        content = f"{self.seed} {number} {name}".encode(errors="surrogateescape")
        draw = random.Random(hashlib.sha256(content).digest())
        area = draw.uniform(*self.scale)
        ratio = math.exp(draw.uniform(*map(math.log, self.ratio)))
        return Crop(area, ratio, draw.random(), draw.random(), draw.random() < self.flip)


def augmentation_of(settings: Mapping[str, Any] | None, where: str) -> Augmentation:
    """Build a data set's `augment`.

    Args:
        settings: of the config; None is the plain view alone.
        where: the data set's name, for messages.

    Raises:
        ConfigError: an argument is unknown, out of its range, or a range begins above its end.
    """
    settings = dict(settings or {})
    check_arguments(Augmentation, settings, f"{where}.augment")
    for name in ("scale", "ratio"):
        if name not in settings:
            continue
        settings[name] = low, high = tuple(settings[name])  # a command line gives lists
        if low > high:
            raise ConfigError(
                f"{where}.augment.{name} is {settings[name]!r}, the least and the largest; put the "
                "smaller one first."
            )
    return Augmentation(**settings)
