"""Memory that the worker processes of a data loader share: decoded views, and which files failed.

Shapes: S side of a view, in pixels.
"""

import mmap
from typing import Any

import torch
from torch import Tensor

__all__ = ["CorruptLog", "ViewStore"]


class ViewStore:
    """Decoded views by image number, in memory that forked workers share; each decoded once.

    Anonymous memory rather than torch's shared tensors: containers often allow 64 MB of those.
    A copy (spawned workers, deepcopy) starts empty.

    Args:
        num_images: images in the data set.
        size: side S of the views.
        max_gb: budget in GiB; the first images that fit are kept.
    """

    def __init__(self, num_images: int, size: int, max_gb: float) -> None:
        self._arguments = (num_images, size, max_gb)
        view_bytes = 3 * size * size
        self.capacity = min(num_images, int(max_gb * 2**30) // (view_bytes + 1))
        if self.capacity:
            memory = mmap.mmap(-1, self.capacity * (view_bytes + 1))
            flat = torch.frombuffer(memory, dtype=torch.uint8)
            self._views = flat[: self.capacity * view_bytes].view(-1, 3, size, size)
            self._known = flat[self.capacity * view_bytes :]

    def __reduce__(self) -> tuple[Any, ...]:
        return ViewStore, self._arguments

    def get(self, index: int) -> Tensor | None:
        """Return a copy of a kept view, uint8 [3, S, S], or None."""
        if index < self.capacity and self._known[index]:
            return self._views[index].clone()
        return None

    def put(self, index: int, view: Tensor) -> None:
        """Keep a view, if it is among those that fit."""
        if index < self.capacity:
            self._views[index] = view
            self._known[index] = 1  # last: another process must not read a half-written view


class CorruptLog:
    """Which images could not be read, counted once each over all workers and epochs.

    Args:
        num_images: images in the data set.
    """

    def __init__(self, num_images: int) -> None:
        self._failed = torch.zeros(num_images, dtype=torch.uint8).share_memory_()

    def add(self, index: int) -> bool:
        """Note a failure; return whether it is a new one."""
        new = not self._failed[index]
        self._failed[index] = 1
        return new

    def __contains__(self, index: int) -> bool:
        return bool(self._failed[index])

    @property
    def count(self) -> int:
        """Number of different images that failed so far."""
        return int(self._failed.sum(dtype=torch.int64))
