"""A folder of images without text, for merging and for looking at gates."""

import os
from collections.abc import Iterator
from typing import Any

from tove.data.image_dataset import ImageDataset
from tove.data.image_io import IMAGE_SUFFIXES
from tove.registry import DATASETS

__all__ = ["UnlabelledImages"]


@DATASETS.register_module()
class UnlabelledImages(ImageDataset):
    """All images under `img_dir`, sub-folders and links to folders included, sorted by path."""

    has_targets = False

    def read_samples(self) -> list[dict[str, Any]]:
        """List the image files."""
        paths = [
            os.path.join(folder, name)
            for folder, names in _folders(self.data_prefix["img"])
            for name in names
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
        return [dict(task="image", image_path=path, prompt="", target="") for path in sorted(paths)]


def _folders(root: str) -> Iterator[tuple[str, list[str]]]:
    """Walk through folders, each once however many links lead to it: a link may lead back."""
    seen: set[str] = set()
    for folder, inside, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside.sort()
        yield folder, names
