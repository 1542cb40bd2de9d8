r"""Conversations about images in LLaVA's JSON: LLaVA-Pretrain 558k, llava_v1_5_mix665k and more.

[{"id": "1", "image": "a.jpg",
  "conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
                    {"from": "gpt", "value": "A cat."}]}]

`image` may be missing (text only) or a list, with one `<image>` for each; any number of turns.
A record is read from the file when it is asked for, so that a worker holds none of the others.

Shapes: V views of a sample's images together, S side of a view in pixels.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch.utils.data import Dataset

from tove.config.validation import Range
from tove.data.conversation_index import ConversationIndex, image_names
from tove.data.image_check import ImageReport, check_images, find_image
from tove.data.image_dataset import existing_root
from tove.data.image_files import check_inside, real_paths
from tove.data.image_io import CorruptImage, TooManyCorruptImages, load_image
from tove.data.view_cache import CorruptLog
from tove.data.views import ImageViews, build_view
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["LlavaConversations", "conversation_item"]


@DATASETS.register_module()
class LlavaConversations(Dataset):
    """Samples dict(images=uint8 [V, 3, S, S], content=int64 [V, 4], sample=dict).

    A sample has `conversations` (the turns, as the file has them), `image_paths`, `view` (the name
    of its view), `relation` (the kind of question, where the record says it) and `views`: a
    dict(size=(height, width), tiles=(rows, columns) or None, num_views=...) of each image. In
    evaluation the last answer is what the model's is held against; those before are given.

    Args:
        data_root: folder of the data set.
        ann_file: LLaVA's JSON, relative to `data_root` or absolute.
        img_dir: folder that image names begin in, relative to `data_root` or absolute.
        image_size: side S of a view.
        view: "crop" (LLaVA's first stage), "pad" (its second) or a dict with a view's arguments,
            see `tove.data.views`.
        corrupt_limit: how many images may be missing or unreadable; in their samples' places come
            the next ones.
        max_samples: keep the first that many samples; None keeps all.
        images_anywhere: let the file name images outside `data_root` and `img_dir`.
        index_dir: folder of the file's index; None is beside the file.
        test_mode: evaluation: a sample that stands in for another is marked `skipped=True`.

    Raises:
        ConfigError: the folder or the file is missing, or the file holds something else.
    """

    metainfo: Mapping[str, Any] = {}

    def __init__(
        self,
        data_root: str | None = None,
        ann_file: str = "",
        img_dir: str = "images",
        image_size: Annotated[int, Range(1, 8192)] = 336,
        view: str | dict[str, Any] = "crop",
        corrupt_limit: Annotated[int, Range(0)] = 16,
        max_samples: Annotated[int, Range(1)] | None = None,
        images_anywhere: bool = False,
        index_dir: str | None = None,
        test_mode: bool = False,
    ) -> None:
        self.data_root = existing_root(data_root, type(self).__name__)
        self.ann_file = os.path.join(self.data_root, ann_file)
        self.img_dir = os.path.join(self.data_root, img_dir)
        self.image_size, self.view = image_size, build_view(view, image_size)
        self.corrupt_limit, self.test_mode = corrupt_limit, test_mode
        self.index = ConversationIndex(self.ann_file, index_dir)
        self._length = min(len(self.index), max_samples or len(self.index))
        if not images_anywhere:
            check_inside(self.image_paths(), (self.data_root, self.img_dir), self.ann_file)
        self._failures = CorruptLog(self.num_images)
        self._file: int | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return sample `idx`, or the next one whose images can be read.

        Raises:
            TooManyCorruptImages: more images than `corrupt_limit` could not be read.
        """
        for step in range(len(self)):
            place = (idx + step) % len(self)
            sample = self.get_data_info(place)
            views = self._views(place, sample["image_paths"])
            if views is None:
                continue
            if step and self.test_mode:
                sample["skipped"] = True
            return conversation_item(sample, views, self.image_size)
        raise TooManyCorruptImages(
            f"None of the {len(self)} samples of {self.ann_file!r} has images that can be read."
        )

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return what the file says of sample `idx`."""
        if not -len(self) <= idx < len(self):
            raise IndexError(f"There is no sample {idx} among {len(self)}.")
        record = self._record(idx % len(self))
        paths = [os.path.join(self.img_dir, name) for name in image_names(record)]
        return dict(
            task="conversation",
            source_id=record.get("id"),
            image_id=os.path.realpath(paths[0]) if paths else f"text-{record.get('id')}",
            image_paths=paths,
            view=self.view.name,
            relation=str(record.get("relation") or "unknown"),
            conversations=record["conversations"],
        )

    def full_init(self) -> None:
        """Do nothing; mmengine's wrappers of data sets call it."""

    def modality_lengths(self) -> np.ndarray:
        """Return each sample's number of words, negative where it has no image, for the sampler."""
        return self.index.modality_lengths()[: len(self)]

    @property
    def num_images(self) -> int:
        """Number of distinct images in the file."""
        return self.index.num_images

    def image_paths(self) -> Iterator[str]:
        """Yield the path of each distinct image, in the order of their numbers."""
        for number in range(self.num_images):
            yield os.path.join(self.img_dir, self.index.image_name(number))

    @property
    def image_ids(self) -> list[str]:
        """The id of each distinct image, the real path of its file; of a missing one its name."""
        paths = list(self.image_paths())
        found = real_paths(paths)
        return [found.get(path) or find_image(path) or path for path in paths]

    def images_of(self, idx: int) -> list[str]:
        """Return the ids of a sample's images, of all that it has."""
        return [os.path.realpath(path) for path in self.get_data_info(idx)["image_paths"]]

    def image_path(self, number: int) -> str:
        """Return the path of an image by its number."""
        path = os.path.join(self.img_dir, self.index.image_name(number))
        return find_image(path) or path

    def image_id(self, number: int) -> str:
        """Return the real path of an image by its number: what tells two apart."""
        return os.path.realpath(self.image_path(number))

    def image_views(self, number: int) -> tuple[str, torch.Tensor]:
        """Return the path and the views, uint8 [V, 3, S, S], of an image by its number.

        Raises:
            CorruptImage: it cannot be read.
        """
        path = self.image_path(number)
        return path, self.view(load_image(path)).pixels_V3SS

    def check_images(self, decode: bool = False, threads: int = 8) -> ImageReport:
        """Look at every distinct image before training; see `tove.data.image_check`."""
        return check_images(self.image_paths(), decode, threads)

    @property
    def num_corrupt(self) -> int:
        """Number of images found unreadable so far, over all workers."""
        return self._failures.count

    def is_corrupt(self, idx: int) -> bool:
        """Tell whether an image of sample `idx` has been found unreadable, by any worker."""
        return any(number in self._failures for number in self.index.images_of(idx))

    def _record(self, idx: int) -> dict[str, Any]:
        if self._file is None:
            self._file = os.open(self.ann_file, os.O_RDONLY)
        size, begin = int(self.index.size[idx]), int(self.index.begin[idx])
        # No seek: forked workers share the place in the file.
        try:
            return json.loads(os.pread(self._file, size, begin))
        except ValueError as error:
            raise ConfigError(
                f"{self.ann_file!r} has changed since this run began ({error}); start it again."
            ) from error

    def _views(self, idx: int, paths: list[str]) -> list[ImageViews] | None:
        """Make the views of a sample's images; None where one of them cannot be read."""
        views = []
        for number, path in zip(self.index.images_of(idx), paths, strict=True):
            try:
                if number in self._failures:
                    return None
                # Decoded whole, and so are the pixels those that stock processors see.
                views.append(self.view(load_image(find_image(path) or path)))
            except CorruptImage as error:
                self._note_failure(number, error)
                return None
        return views

    def _note_failure(self, number: int, error: CorruptImage) -> None:
        if not self._failures.add(number):
            return
        count = self._failures.count
        print_log(f"Skipped image {count}: {error}", logger="current", level=logging.WARNING)
        if count > self.corrupt_limit:
            raise TooManyCorruptImages(
                f"{count} images of {self.ann_file!r} could not be read, more than "
                f"corrupt_limit={self.corrupt_limit}; the last: {error}. Mend or remove them, or "
                "raise corrupt_limit in the data set's config."
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}  # a spawned worker opens its own


def conversation_item(
    sample: dict[str, Any], views: Sequence[ImageViews], side: int
) -> dict[str, Any]:
    """Put a sample and its images' views together, for `tove_collate`.

    Args:
        sample: with `conversations` and `image_paths`; it gets `views`.
        views: of each image.
        side: S.
    """
    nothing = torch.empty(0, 3, side, side, dtype=torch.uint8), torch.empty(0, 4).long()
    told = [dict(size=one.size, tiles=one.tiles, num_views=len(one.pixels_V3SS)) for one in views]
    return dict(
        images=torch.cat([nothing[0], *(one.pixels_V3SS for one in views)]),
        content=torch.cat([nothing[1], *(one.content_V4 for one in views)]),
        sample={**sample, "views": told},
    )
