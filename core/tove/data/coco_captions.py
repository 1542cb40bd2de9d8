"""Captions in the COCO format.

{"images": [{"id": 1, "file_name": "000001.jpg"}, ...],
 "annotations": [{"image_id": 1, "caption": "a red ball"}, ...]}
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tove.data.annotations import Texts, is_text, read_json, refuse, warn
from tove.data.image_dataset import ImageDataset
from tove.data.joins import join_by_id
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["Captions", "CocoCaptions", "captions_of"]


@dataclass(frozen=True, slots=True)
class Captions:
    """A file's images that have captions, in its order, and all captions in the order of those.

    Those of image i are `captions[starts[i]:starts[i + 1]]`; `relations` are the parts that images
    belong to, such as NoCaps' domains.
    """

    ids: list[Any]
    names: list[str]
    captions: Texts
    starts: np.ndarray
    relations: list[str] | None = None


@DATASETS.register_module()
class CocoCaptions(ImageDataset):
    """Images with captions: in training one sample per caption, in evaluation one per image.

    A sample of evaluation has all captions of its image as `references`. Images without a caption
    are left out.

    Args:
        prompt: text that the language model is given before the caption.
        **options: arguments of `ImageDataset`.
    """

    def __init__(
        self,
        *,
        prompt: str = "a picture of",
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.prompt = prompt
        super().__init__(**options)

    def read_samples(self) -> Sequence[dict[str, Any]]:
        """Join images and annotations by image id, in the order of the images."""
        captions = self.read_captions()
        return _Samples(
            captions, self.data_prefix["img"], self.prompt, self.test_mode, self.max_samples
        )

    def read_captions(self) -> Captions:
        """Read the file; for subclasses."""
        path = self._annotation_path()
        state = os.stat(path)
        return _read(path, state.st_mtime_ns, state.st_size)


class _Samples(Sequence[dict[str, Any]]):
    """The samples of a file, each made when it is asked for: no caption is kept twice."""

    def __init__(
        self, read: Captions, folder: str, prompt: str, per_image: bool, most: int | None
    ) -> None:
        self._read, self._prompt, self._per_image = read, prompt, per_image
        number = len(read.names) if per_image else len(read.captions)
        self._length = number if most is None else min(number, most)
        used = self._length if per_image else self._image_of(self._length - 1) + 1
        self.image_paths = [os.path.join(folder, name) for name in read.names[:used]]

    def __len__(self) -> int:
        return self._length

    def _image_of(self, caption: int) -> int:
        return int(np.searchsorted(self._read.starts, caption, "right")) - 1

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as Sequence says it
        if not -self._length <= index < self._length:
            raise IndexError(index)
        index %= self._length
        image = index if self._per_image else self._image_of(index)
        start, end = self._read.starts[image : image + 2].tolist()
        references = self._read.captions[start:end]
        sample = dict(
            task="caption",
            image_index=image,
            source_id=self._read.ids[image],
            prompt=self._prompt,
            target=references[0 if self._per_image else index - start] if references else "",
            references=references,
        )
        relations = self._read.relations
        return sample if relations is None else sample | dict(relation=relations[image])


@lru_cache(maxsize=8)  # every stage of a run builds its data sets anew
def _read(path: str, changed: int, size: int) -> Captions:
    """Read a file, of that time and size."""
    content = read_json(path, "a COCO captions file", _slim)
    images, annotations = (_entries(path, content, key) for key in ("images", "annotations"))
    owners = [owner for owner, _ in annotations]
    captions = [caption for _, caption in annotations]
    del content, annotations
    return captions_of(path, images, owners, captions)


def captions_of(
    path: str, images: Sequence[tuple[Any, str]], owners: Sequence[Any], captions: Sequence[str]
) -> Captions:
    """Put captions in the order of their images.

    Args:
        path: of the file, for messages.
        images: id and file name of each.
        owners: the image id of each caption.
        captions: all, words separated by single spaces.

    Raises:
        ConfigError: see `join_by_id`.
    """
    places = np.array(join_by_id(path, images, owners), dtype=np.int64)
    filled = np.array([bool(caption) for caption in captions], dtype=bool)
    warn(path, int((~filled).sum()), "captions are empty and are left out")
    kept = np.flatnonzero(filled & (places >= 0))
    order = kept[np.argsort(places[kept], kind="stable")]
    used, counts = np.unique(places[order], return_counts=True)
    warn(path, len(images) - len(used), "images have no caption of their own and are left out")
    return Captions(
        ids=[images[place][0] for place in used.tolist()],
        names=[images[place][1] for place in used.tolist()],
        captions=Texts(captions[place] for place in order.tolist()),
        starts=np.concatenate([[0], np.cumsum(counts)]),
    )


def _slim(entry: dict[str, Any]) -> Any:  # noqa: ANN401 - entries of any shape
    """Keep of an image or annotation what is read, words separated by single spaces."""
    if "image_id" in entry:
        caption = entry.get("caption")
        return entry["image_id"], " ".join(caption.split()) if type(caption) is str else caption
    return (entry.get("id"), entry["file_name"]) if "file_name" in entry else entry


def _entries(path: str, content: object, key: str) -> list[Any]:
    """Return one of the file's two lists, every entry held to what it needs."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ConfigError(f"{path!r} is not a COCO captions file: it has no list '{key}'.")
    wrong = [
        place
        for place, entry in enumerate(entries)
        if not (type(entry) is tuple and type(entry[0]) in (int, str) and is_text(entry[1]))
    ]
    need = "an id or a file_name" if key == "images" else "an image_id or a caption"
    refuse(
        path, "COCO captions file", wrong, entries, f"{key} lack {need} (ids are numbers or texts)"
    )
    return entries
