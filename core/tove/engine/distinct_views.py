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
from tove.data.known_views import KnownViews, file_key
from tove.errors import ConfigError
from tove.modules.view_key import view_digest
from tove.registry import DATASETS

__all__ = ["DistinctViews", "Views", "collate_views", "distinct_views"]


class Views(NamedTuple):
    """The views of some images.

    Attributes:
        digests: of the V views.
        pixels_V3SS: uint8.
        files: key of the file and digest of the view, for images with one view.
    """

    digests: list[str]
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
        kind = getattr(self.dataset, "view", None)
        if self.known and isinstance(kind, str):
            path = self.dataset.image_path(number)
            if self.known.find(path, size, kind):
                return nothing
        try:
            path, pixels_V3SS = self.dataset.image_views(number)
        except CorruptImage:
            return nothing
        digests = [view_digest(view) for view in pixels_V3SS]
        key = file_key(path, size, kind) if isinstance(kind, str) and len(digests) == 1 else None
        return Views(digests, pixels_V3SS, [(key, digests[0])] if key else [])


def collate_views(batch: Sequence[Views]) -> Views:
    """Put the views of several images behind each other."""
    return Views(
        [digest for views in batch for digest in views.digests],
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
        numbers = []
        for number in range(dataset.num_images):
            how = dataset.image_id(number), dataset.image_size, str(entry.get("view"))
            if how not in seen:
                seen.add(how)
                numbers.append(number)
        if numbers:
            found.append(DistinctViews(dataset, numbers, known))
    return found
