"""The distinct images of a config's data sets, as a data set that a loader's workers decode.

Shapes: V views of an image, S side of a view, in pixels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils.data import Dataset

from tove.config.data_sets import data_sets, is_wrapper
from tove.data.image_io import CorruptImage
from tove.data.known_views import KnownViews, file_views, view_key
from tove.errors import ConfigError
from tove.modules.view_key import ViewKey, view_digest
from tove.registry import DATASETS

__all__ = ["DistinctViews", "Views", "collate_views", "distinct_views"]


class Views(NamedTuple):
    """The views of some images.

    Attributes:
        keys: of the V views.
        pixels_V3SS: uint8.
        files: what `tove.data.known_views.file_views` says of each, where views have names.
    """

    keys: list[ViewKey]
    pixels_V3SS: Tensor
    files: list[tuple[bytes, str]]


class DistinctViews(Dataset):
    """Some images of a data set, each once.

    Args:
        dataset: has `image_views`.
        numbers: of the images.
        known: the images that are not decoded.
    """

    def __init__(self, dataset: Any, numbers: Sequence[int], known: KnownViews | None) -> None:  # noqa: ANN401
        self.dataset, self.numbers, self.known = dataset, numbers, known

    @property
    def views(self) -> int:
        """How many views an image has at least."""
        augment = getattr(self.dataset, "augment", None)
        return 1 if augment is None else int(augment.views)

    @property
    def size(self) -> int:
        """Side S of the views."""
        side: int = self.dataset.image_size
        return side

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Views:
        """Return the views of an image; none where it is known or cannot be read."""
        number, size = self.numbers[index], self.size
        nothing = Views([], torch.empty(0, 3, size, size, dtype=torch.uint8), [])
        names = self.dataset.view_names(number) if hasattr(self.dataset, "view_names") else []
        if self.known and names:
            path = self.dataset.image_path(number)
            if all(self.known.find(path, size, name) for name in names):
                return nothing
        try:
            path, pixels_V3SS = self.dataset.image_views(number)
        except CorruptImage:
            return nothing
        if not names:
            return Views([ViewKey(view_digest(view)) for view in pixels_V3SS], pixels_V3SS, [])
        hows = [(path, size, name) for name in names]
        keys = [view_key(v, size, name) for v, name in zip(pixels_V3SS, names, strict=True)]
        files = [
            file for key, how in zip(keys, hows, strict=True) for file in file_views(key, *how)
        ]
        return Views(keys, pixels_V3SS, files)


def collate_views(batch: Sequence[Views]) -> Views:
    """Put the views of several images behind each other."""
    return Views(
        [key for views in batch for key in views.keys],
        torch.cat([views.pixels_V3SS for views in batch]),
        [file for views in batch for file in views.files],
    )


def distinct_views(cfg: Config, known: KnownViews | None = None) -> list[DistinctViews]:
    """Return the images of all data sets of a config, those of several in the first.

    Args:
        cfg: with data roots and image sizes filled in.
        known: the images that are not decoded.

    Raises:
        ConfigError: a data set does not tell its images.
    """
    found, seen = [], set()
    for loader, entry in data_sets(cfg):
        if is_wrapper(entry):
            continue
        settings = dict(entry)
        settings.pop("keep_decoded_gb", None)
        dataset = DATASETS.build(settings)
        if not hasattr(dataset, "image_views"):
            raise ConfigError(
                f"The data set {type(dataset).__name__} of {loader} does not tell its images, so "
                "they cannot be extracted beforehand; give it `num_images`, `image_path` and "
                "`image_views` as `tove.data.image_dataset` has them, or train once with "
                "model.token_cache.mode='read-through'."
            )
        dataset.full_init()
        numbers, augment = [], getattr(dataset, "augment", None)
        for number in range(dataset.num_images):
            how = dataset.image_id(number), dataset.image_size, str(entry.get("view")), augment
            if how not in seen:
                seen.add(how)
                numbers.append(number)
        if numbers:
            found.append(DistinctViews(dataset, numbers, known))
    return found
