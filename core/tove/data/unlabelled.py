"""A folder of images without text, for merging and for looking at gates."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tove.data.annotations import is_text, warn
from tove.data.image_dataset import ImageDataset
from tove.data.image_io import image_suffixes
from tove.registry import DATASETS

__all__ = ["UnlabelledImages"]


@DATASETS.register_module()
class UnlabelledImages(ImageDataset):
    """All images under `img_dir`, sub-folders and links to folders included, sorted by path.

    An image is what has the name of one that Pillow reads; hidden files are none.
    """

    has_targets = False

    def read_samples(self) -> list[dict[str, Any]]:
        """List the image files; others are left out, and counted."""
        root = self.data_prefix["img"]
        paths, unnamed, others = [], [], Counter[str]()
        for folder, names in _folders(root):
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    continue
                if suffix not in image_suffixes():
                    others[suffix or "without an ending"] += 1
                elif not is_text(os.path.join(folder, name)):  # could not be written in any list
                    unnamed.append(name)
                else:
                    paths.append(os.path.join(folder, name))
        ordered = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in ordered[:5])
        warn(root, others.total(), f"files are no images that can be read: {kinds}")
        warn(root, len(unnamed), "images are left out, whose names are not UTF-8", unnamed)
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
