"""Images that are trained on and tested on: the score then tells what was learned by heart.

Two names are one image if their real paths are the same, or their files' bytes. Bytes are compared
where that is cheap: of files with equally many, by a digest of their first 64 KiB.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from tove.data.wrappers import inner_data_sets

__all__ = ["image_ids", "leaks"]

_FILES = 50_000  # beyond so many on both sides only paths are compared
_BYTES = 1 << 16


def leaks(splits: Mapping[str, Iterable[str]], files: int = _FILES) -> list[str]:
    """Say which splits hold images of the training split.

    Args:
        splits: real paths of the images of "train" and of others, see `image_ids`.
        files: bytes are compared of no more files than that.

    Returns:
        One sentence for each other split that shares images with it, with their number.
    """
    train = set(splits.get("train", ()))
    found = []
    for split, others in splits.items():
        images = set(others)
        if split == "train" or not images:
            continue
        same = {path: path for path in images & train}
        if len(images) + len(train) <= files:
            same |= _same_bytes(images - train, train)
        if same:
            path = min(same)
            also = "" if same[path] == path else f", which is {same[path]} in training"
            found.append(
                f"{len(same)} of the {len(images)} images of the {split} split are trained on as "
                f"well, first {path}{also}; its scores tell partly what was learned by heart. Take "
                "them out of one of the two."
            )
    return found


def image_ids(dataset: Any) -> set[str]:  # noqa: ANN401 - any data set, mmengine's wrappers
    """Return the ids, which are real paths, of the images of a data set."""
    found: set[str] = set()
    for part in inner_data_sets(dataset):
        own = getattr(part, "image_ids", None)
        if own is None:
            own = (str(part.get_data_info(i)["image_id"]) for i in range(len(part)))
        found.update(own)
    return found


def _same_bytes(images: set[str], train: set[str]) -> dict[str, str]:
    """Find for each image the one of `train` with the same bytes, where there is one."""
    sizes: dict[int, list[str]] = {}
    for path in train:
        sizes.setdefault(_size(path), []).append(path)
    digests: dict[int, dict[bytes, str]] = {}
    same = {}
    for path in images:
        size = _size(path)
        if size <= 0 or size not in sizes:
            continue
        if size not in digests:
            digests[size] = {_digest(other): other for other in sorted(sizes[size])}
        if other := digests[size].get(_digest(path)):
            same[path] = other
    return same


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a missing image is told elsewhere
        return -1


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.blake2b(file.read(_BYTES), digest_size=16).digest()
    except OSError:
        return path.encode("utf-8", "surrogateescape")
