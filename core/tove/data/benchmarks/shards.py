"""Image-text pairs in WebDataset's tars, as img2dataset writes CC3M, CC12M and SBU.

Samples are read in place, by the index of `tove.data.benchmarks.shard_index`: shards are one data
set among others, in any order, mixed with others, and a run goes on where it stopped.
`tove.data.shard_sampler.ShardSampler` orders them so that every tar is read from front to back.

Shapes: S side of the square view, in pixels.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from glob import escape, glob
from typing import Any

import numpy as np
from torch import Tensor

from tove.data.annotations import warn
from tove.data.benchmarks.shard_index import ABSENT, open_index
from tove.data.image_dataset import ImageDataset
from tove.data.image_io import (
    CorruptImage,
    ViewName,
    decode_image,
    decoded_side,
    shared_view,
)
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["ImageTextShards"]


@DATASETS.register_module()
class ImageTextShards(ImageDataset):
    """Images with a caption each, in tars.

    Args:
        shards: patterns of the tars within `data_root`, such as "cc3m/*.tar".
        caption: suffix of the member that holds a sample's caption, without the dot.
        prompt: text that the language model is given before the caption.
        index_dir: folder in which to remember where samples lie; `data_root` by default.
        **options: arguments of `ImageDataset`.

    Raises:
        ConfigError: besides those of `ImageDataset`, a pattern that no tar fits, an index that
            cannot be kept, more than `corrupt_limit` samples without an image or a caption.
    """

    def __init__(
        self,
        *,
        shards: str | Sequence[str],
        caption: str = "txt",
        prompt: str = "a picture of",
        index_dir: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.shards = [shards] if isinstance(shards, str) else list(shards)
        self.caption, self.prompt, self.index_dir = caption, prompt, index_dir
        super().__init__(img_dir="", **options)

    def load_data_list(self) -> "_Pairs":
        """Open the index."""
        tars = [tar for pattern in self.shards for tar in self._found(pattern)]
        self.serialize_data = False
        index = open_index(tars, self.caption, self.index_dir or self.data_root)
        pairs = _Pairs(tars, index[: self.max_samples], self.prompt)
        self._check(pairs)
        self._pairs = pairs
        self._count_images(len(pairs))
        return pairs

    @property
    def shard_bounds(self) -> np.ndarray:
        """Where each tar's samples begin, and the last ones end; once for each view."""
        self.full_init()
        starts = [self._pairs.bounds[:-1] + k * len(self._pairs) for k in range(self.augment.views)]
        return np.concatenate([*starts, [len(self)]])

    @property
    def image_ids(self) -> Sequence[str]:
        """None: no other data set has images in these tars."""
        return ()

    def images_of(self, idx: int) -> list[str]:
        """Return the id of a sample's image."""
        return [self._pairs.place(self._place(idx)[0])]

    def image_path(self, index: int) -> str:
        """Return the tar of an image and its number in there."""
        return self._pairs.place(index)

    image_id = image_path

    def is_corrupt(self, idx: int) -> bool:
        """Tell whether a sample has been found unreadable, by any worker."""
        return self._place(idx)[0] in self._failures

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return a sample without its image."""
        index, number = self._place(idx)
        place, view = self._pairs.place(index), self._view_name(index, number)
        about = dict(image_path=place, image_id=place, view=view, view_number=number)
        return self._pairs[index] | dict(sample_idx=index) | about

    def _image(self, index: int, number: int, sample: dict[str, Any]) -> Tensor | None:
        if not sample["target"]:
            raise CorruptImage(f"{sample['image_path']} has no caption")
        return super()._image(index, number, sample)

    def _loader(self, index: int, path: str, name: ViewName) -> Callable[[], Tensor]:
        where = self._pairs.where(index, "image")
        return partial(_view_in, *where, path, self.image_size, name)

    def _found(self, pattern: str) -> list[str]:
        found = sorted(glob(os.path.join(escape(self.data_root), pattern)))
        if not found:
            raise ConfigError(
                f"No shard fits {pattern!r} in {self.data_root!r}; give ImageTextShards the "
                "pattern of the tars, such as shards='cc3m/*.tar', and their folder as data_root."
            )
        return found

    def _check(self, pairs: "_Pairs") -> None:
        """Refuse tars of something else, and say how many samples are incomplete."""
        lacking = np.flatnonzero(pairs.lacking)
        if len(lacking) == len(pairs):
            raise ConfigError(
                f"No sample of {', '.join(self.shards)} in {self.data_root!r} has both an image "
                f"and a caption named .{self.caption}; `tar tf` shows what there is, and `caption` "
                "of ImageTextShards says which suffix captions have."
            )
        places = [pairs.place(index) for index in lacking[: self.corrupt_limit].tolist()]
        if len(lacking) > self.corrupt_limit:
            raise ConfigError(
                f"{len(lacking)} of the {len(pairs)} samples of {', '.join(self.shards)} lack an "
                f"image or a caption, or stand for the damaged end of a tar, first "
                f"{pairs.place(int(lacking[0]))!r}; fetch those tars again, or set corrupt_limit "
                f"(now {self.corrupt_limit}) to tolerate that many."
            )
        what = "samples lack an image or a caption, or stand for the damaged end of a tar"
        warn(str(self.data_root), len(lacking), what, places)


class _Pairs(Sequence[dict[str, Any]]):
    """The samples of some tars, each read when it is asked for.

    Args:
        tars: their paths.
        entries: an array of `ENTRY`.
        prompt: of every sample.
    """

    def __init__(self, tars: Sequence[str], entries: np.ndarray, prompt: str) -> None:
        self.tars, self.entries, self.prompt = tars, entries, prompt
        counts = np.bincount(entries["shard"], minlength=len(tars))
        self.bounds = np.concatenate([[0], np.cumsum(counts)])
        self.lacking = (entries["image_bytes"] == ABSENT) | (entries["caption_bytes"] == ABSENT)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as Sequence says it
        text = _bytes_of(*self.where(index, "caption"))
        caption = " ".join(text.decode("utf-8", "ignore").split())
        return dict(
            task="caption",
            image_index=index,
            source_id=index,
            prompt=self.prompt,
            target=caption,
            references=[caption],
        )

    def place(self, index: int) -> str:
        """Return a sample's tar and its number in there, which is a name of its image."""
        shard = int(self.entries[index]["shard"])
        return f"{self.tars[shard]}#{index - int(self.bounds[shard])}"

    def where(self, index: int, part: str) -> tuple[str, int, int]:
        """Return the tar in which a part of a sample lies, where it begins, and its bytes."""
        entry = self.entries[index]
        return self.tars[entry["shard"]], int(entry[part]), int(entry[f"{part}_bytes"])


def _bytes_of(tar: str, begin: int, size: int) -> bytes:
    if size == ABSENT:
        return b""
    file = os.open(tar, os.O_RDONLY)
    try:
        return os.pread(file, size, begin)
    finally:
        os.close(file)


def _view_in(tar: str, begin: int, size: int, name: str, side: int, view: ViewName) -> Tensor:
    """Return the view, uint8 [3, S, S], of an image in a tar."""
    try:
        content = _bytes_of(tar, begin, size)
    except OSError as error:
        raise CorruptImage(f"{name} cannot be read ({error})") from error
    return shared_view(decode_image(content, name, decoded_side(side, view)), side, view)
