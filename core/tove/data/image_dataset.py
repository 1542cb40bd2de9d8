"""What all data sets of images share: paths, the shared view, and images that cannot be read.

A corrupt image is named in the log and counted once. In training the next good sample takes its
place. In evaluation too, so that batches and processes stay in step, but marked `skipped=True`,
and metrics leave it out. Past `corrupt_limit` the run stops.

Shapes: S side of the square view, in pixels.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch import Tensor

from tove.config.validation import Range, check_arguments
from tove.data.annotations import Texts, warn
from tove.data.augmentation import Augmentation, augmentation_of
from tove.data.image_files import check_inside, real_paths
from tove.data.image_io import CorruptImage, TooManyCorruptImages, ViewName
from tove.data.known_views import KnownViews, load_view, view_key
from tove.data.view_cache import CorruptLog, ViewStore
from tove.errors import ConfigError

__all__ = ["ImageDataset", "existing_root"]


class ImageDataset(BaseDataset):
    """Samples with one image each: dict(image=uint8 [3, S, S], sample=dict).

    Args:
        data_root: folder of the data set.
        ann_file: annotation file, relative to `data_root` or absolute; "" where there is none.
        img_dir: folder of the images, relative to `data_root` or absolute.
        image_size: side S of the shared view.
        view: "crop" or "pad", see `tove.data.image_io.ViewName`.
        augment: options of `tove.data.augmentation.Augmentation`, for training: as many samples as
            there are views, of each the one after the other; in evaluation it changes nothing.
        corrupt_limit: how many images may be missing or unreadable.
        max_samples: keep the first that many samples; None keeps all.
        images_anywhere: let the annotations name images outside `data_root` and `img_dir`.
        keep_decoded_gb: memory in GiB for decoded views, so that small sets are decoded once.
        test_mode: evaluation: see the subclasses for what changes.
        lazy_init: mmengine's: read the annotations at first use.

    Attributes:
        names_views: whether samples have `view_key`, the digest of their view's pixels.
        known_views: the views that are not decoded, as all that is wanted of them is kept; `image`
            is None in their samples. None decodes all.

    Raises:
        ConfigError: a folder, the annotation file or more than `corrupt_limit` images are missing,
            or images lie elsewhere.
    """

    names_views: bool = False
    known_views: KnownViews | None = None

    def __init__(
        self,
        data_root: str | None = None,
        ann_file: str = "",
        img_dir: str = "images",
        image_size: Annotated[int, Range(1, 8192)] = 224,
        view: Literal["crop", "pad"] = "crop",
        augment: Mapping[str, Any] | None = None,
        corrupt_limit: Annotated[int, Range(0)] = 16,
        max_samples: Annotated[int, Range(1)] | None = None,
        images_anywhere: bool = False,
        keep_decoded_gb: Annotated[float, Range(0, 100_000)] = 0.0,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        own = dict(
            image_size=image_size,
            view=view,
            corrupt_limit=corrupt_limit,
            max_samples=max_samples,
            images_anywhere=images_anywhere,
            keep_decoded_gb=keep_decoded_gb,
        )
        check_arguments(ImageDataset, own, type(self).__name__)
        drawn = augmentation_of(augment, type(self).__name__)
        self.augment = Augmentation() if test_mode else drawn
        self.image_size, self.view, self.max_samples = image_size, view, max_samples
        self.images_anywhere = images_anywhere
        self.corrupt_limit, self.keep_decoded_gb = corrupt_limit, keep_decoded_gb
        super().__init__(
            ann_file=ann_file,
            data_root=existing_root(data_root, type(self).__name__),
            data_prefix=dict(img=img_dir),
            test_mode=test_mode,
            lazy_init=lazy_init,
        )

    def __len__(self) -> int:
        """Return the number of samples, each view of an image one."""
        return super().__len__() * self.augment.views

    def read_samples(self) -> Sequence[dict[str, Any]]:
        """Read the annotations into sample dicts with `image_path`; for subclasses.

        A sequence that makes its samples as they are asked for has them with `image_index`
        instead, and the paths as its `image_paths`; it is not copied.
        """
        raise NotImplementedError

    def load_data_list(self) -> Sequence[dict[str, Any]]:
        """Read all samples, give their images a number and an id, look for missing files."""
        if not os.path.isdir(self.data_prefix["img"]):
            raise ConfigError(
                f"{type(self).__name__} needs the image folder {self.data_prefix['img']!r}, which "
                "does not exist; set img_dir to the folder of the images inside data_root."
            )
        samples = self.read_samples()
        if self.max_samples is not None and len(samples) > self.max_samples:
            samples = samples[: self.max_samples]
        if not samples:
            raise ConfigError(
                f"{type(self).__name__} found no sample in {self._listed_in!r}; check that it "
                "holds what this data set reads."
            )
        paths = getattr(samples, "image_paths", None)
        self.serialize_data = paths is None
        paths = _numbered(samples) if paths is None else paths
        if not self.images_anywhere:
            check_inside(paths, (self.data_root, self.data_prefix["img"]), self.ann_file)
        found = real_paths(paths)
        self._check_files([path for path in paths if path not in found], len(paths))
        self._paths = Texts(paths)
        links = any(path != real for path, real in found.items())
        self._ids = Texts(found.get(path, path) for path in paths) if links else self._paths
        doubles = sorted(found.keys() - {real: path for path, real in found.items()}.values())
        warn(
            self._listed_in, len(doubles), "images are links to others, and one with them", doubles
        )
        self._count_images(len(paths))
        return samples

    def _count_images(self, number: int) -> None:
        self.num_images = number
        self._failures = CorruptLog(number)
        views = number * self.augment.views
        self._views = ViewStore(views, self.image_size, self.keep_decoded_gb)

    def _place(self, idx: int) -> tuple[int, int]:
        """Return where sample `idx` is in the annotations, and the number of its view."""
        number, place = divmod(range(len(self))[idx], super().__len__())
        return place, number

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a sample without its image."""
        place, number = self._place(idx)
        sample: dict[str, Any] = super().get_data_info(place)
        index = sample["image_index"]
        sample["image_path"], sample["view_number"] = self._paths[index], number
        sample["view"] = self._view_name(index, number)
        sample["image_id"] = self._ids[index]  # a linked image is the same image
        return sample

    def prepare_data(self, idx: int) -> dict[str, Any]:
        """Return sample `idx`, or the next one whose image can be read.

        Raises:
            TooManyCorruptImages: more images than `corrupt_limit` could not be read.
        """
        for step in range(len(self)):
            sample = self.get_data_info((idx + step) % len(self))
            index, number = sample.pop("image_index"), sample.pop("view_number")
            try:
                image = self._image(index, number, sample)
            except CorruptImage as error:
                self._note_failure(index, error)
                continue
            if step and self.test_mode:
                sample["skipped"] = True
            return dict(image=image, sample=sample)
        raise TooManyCorruptImages(
            f"None of the {len(self)} samples of {self.data_root!r} has an image that can be read."
        )

    @property
    def image_ids(self) -> Sequence[str]:
        """The id of each image, which is its real path."""
        self.full_init()
        return self._ids

    @property
    def num_corrupt(self) -> int:
        """Number of images found unreadable so far, over all workers."""
        return self._failures.count

    def is_corrupt(self, idx: int) -> bool:
        """Tell whether the image of sample `idx` has been found unreadable, by any worker."""
        return self.get_data_info(idx)["image_index"] in self._failures

    def image_path(self, index: int) -> str:
        """Return the path of an image by its number."""
        return self._paths[index]

    def image_id(self, index: int) -> str:
        """Return the real path of an image by its number: what tells two apart."""
        return self._ids[index]

    def view_names(self, index: int) -> list[ViewName]:
        """Return what the views of an image are, by its number."""
        return [self._view_name(index, number) for number in range(self.augment.views)]

    def image_views(self, index: int) -> tuple[str, Tensor]:
        """Return the path and the distinct views, uint8 [V, 3, S, S], of an image by its number.

        Raises:
            CorruptImage: it cannot be read.
        """
        path = self.image_path(index)
        names = enumerate(self.view_names(index))
        return path, torch.stack([self._view(index, k, path, name) for k, name in names])

    def _view_name(self, index: int, number: int) -> ViewName:
        name = os.path.relpath(self.image_path(index), self.data_prefix["img"])
        return self.augment.crop(name, number) if number else self.view

    def _image(self, index: int, number: int, sample: dict[str, Any]) -> Tensor | None:
        """Return a sample's view, uint8 [3, S, S]; None where it is known."""
        path, name = sample["image_path"], sample["view"]
        if not self.names_views:
            return self._view(index, number, path, name)
        if known := self.known_views and self.known_views.find(path, self.image_size, name):
            sample["view_key"] = known
            return None
        pixels = self._view(index, number, path, name)
        again = self._loader(index, path, name)
        sample["view_key"] = view_key(pixels, self.image_size, name, again)
        return pixels

    def _loader(self, index: int, path: str, name: ViewName) -> Callable[[], Tensor]:
        """Return what makes an image's view anew, small enough to go along with a sample."""
        return partial(load_view, path, self.image_size, name)

    def _view(self, index: int, number: int, path: str, name: ViewName) -> Tensor:
        place = index * self.augment.views + number
        pixels = self._views.get(place)
        if pixels is None:
            pixels = self._loader(index, path, name)()
            self._views.put(place, pixels)
        return pixels

    def _note_failure(self, index: int, error: CorruptImage) -> None:
        if not self._failures.add(index):
            return
        count = self._failures.count
        print_log(f"Skipped image {count}: {error}", logger="current", level=logging.WARNING)
        if count > self.corrupt_limit:
            raise TooManyCorruptImages(
                f"{count} images of {self.data_root!r} could not be read, more than "
                f"corrupt_limit={self.corrupt_limit}; the last: {error}. Mend or remove them, or "
                "raise corrupt_limit in the data set's config."
            )

    def _check_files(self, missing: list[str], number: int) -> None:
        if len(missing) > self.corrupt_limit:
            raise ConfigError(
                f"{len(missing)} of the {number} images named in {self._listed_in!r} are not in "
                f"{self.data_prefix['img']!r}, or no files, first {missing[0]!r}; set img_dir to "
                f"their folder, or corrupt_limit (now {self.corrupt_limit}) to tolerate that many."
            )
        what = f"of its {number} images are not in {self.data_prefix['img']}, or no files"
        warn(self._listed_in, len(missing), f"{what}, and are skipped", missing)

    @property
    def _listed_in(self) -> str:
        """Where the images are named: the annotations, or their own folder."""
        return self.ann_file or str(self.data_prefix["img"])

    def _annotation_path(self) -> str:
        if not os.path.isfile(self.ann_file):
            raise ConfigError(
                f"{type(self).__name__} needs the annotation file {self.ann_file!r}, which does "
                "not exist; set ann_file to a path inside data_root, or data_root to its folder."
            )
        return self.ann_file


def existing_root(data_root: str | None, name: str) -> str:
    """Return the folder of a data set, `~` resolved.

    Args:
        data_root: as the config has it.
        name: of the data set's class, for the message.

    Raises:
        ConfigError: there is none.
    """
    if not data_root:
        raise ConfigError(
            f"{name} has no data_root; set it with --cfg-options data_root=FOLDER or in the config."
        )
    folder = os.path.expanduser(data_root)
    if not os.path.isdir(folder):
        raise ConfigError(
            f"The data folder {data_root!r} (data_root of {name}) does not exist; "
            "set it with --cfg-options data_root=FOLDER."
        )
    return folder


def _numbered(samples: Sequence[dict[str, Any]]) -> list[str]:
    """Give each sample the number of its image in place of the path; return the paths."""
    numbers: dict[str, int] = {}
    for sample in samples:
        sample["image_index"] = numbers.setdefault(sample.pop("image_path"), len(numbers))
    return [*numbers]
