"""LLaVA's order of samples: batches of one modality, their lengths evened out over the processes.

    megabatch   W * A * b samples, all with images or all without (W processes, A accumulated steps,
                b a process's batch), drawn at random within their modality
    within      longest first (in words), each to the shortest of the W * A batches so far
    order       megabatches of both modalities in random order

As in LLaVA's release, but endless: what does not fill a megabatch comes first in its modality's
next pass, where the release makes one last batch of both modalities.
"""

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from tove.errors import ConfigError
from tove.registry import DATA_SAMPLERS

__all__ = ["ModalityLengthSampler", "even_batches", "modality_lengths"]


def modality_lengths(dataset: Any) -> np.ndarray:  # noqa: ANN401 - a data set or a wrapper of some
    """Return each sample's length, negative where it has no image; through mmengine's wrappers.

    Raises:
        ConfigError: the data set does not know.
    """
    if hasattr(dataset, "modality_lengths"):
        return dataset.modality_lengths()
    if hasattr(dataset, "datasets"):
        return np.concatenate([modality_lengths(part) for part in dataset.datasets])
    raise ConfigError(
        f"ModalityLengthSampler needs the lengths of conversations, which a "
        f"{type(dataset).__name__} does not have; use it with LlavaConversations, or take "
        "InfiniteSampler."
    )


def even_batches(indices: Sequence[int], lengths: np.ndarray, num_batches: int) -> list[list[int]]:
    """Deal a megabatch out to batches of the same size and about the same total length.

    Args:
        indices: of the samples, longest first; a multiple of `num_batches`.
        lengths: of all samples.
        num_batches: how many.
    """
    size = len(indices) // num_batches
    batches: list[list[int]] = [[] for _ in range(num_batches)]
    shortest = [(0, number) for number in range(num_batches)]
    for index in indices:
        total, number = heapq.heappop(shortest)
        batches[number].append(index)
        if len(batches[number]) < size:
            heapq.heappush(shortest, (total + int(lengths[index]), number))
    return batches


@DATA_SAMPLERS.register_module()
class ModalityLengthSampler(Sampler):
    """An endless stream of a process's samples, grouped by modality and length.

    Args:
        dataset: `LlavaConversations`, or a wrapper of some.
        batch_size: of one process, as the loader has it.
        accumulated: steps whose gradients are summed, which then share a megabatch.
        seed: the same on every process; None draws one for all.

    Raises:
        ConfigError: the data set does not know its lengths.
    """

    def __init__(
        self,
        dataset: Any,  # noqa: ANN401
        batch_size: int,
        accumulated: int = 1,
        seed: int | None = None,
    ) -> None:
        self.rank, self.world_size = get_dist_info()
        self.batch_size, self.accumulated = batch_size, accumulated
        self.seed = sync_random_seed() if seed is None else seed
        lengths = modality_lengths(dataset)
        self._lengths = np.abs(lengths)
        self._modalities = [np.flatnonzero(lengths > 0), np.flatnonzero(lengths < 0)]
        self._start = 0

    def __len__(self) -> int:
        """Return the number of samples of the data set, as mmengine's InfiniteSampler does."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield indices of this process's samples."""
        start, self._start = self._start, 0
        yield from islice(self._of_rank(), start, None)

    def skip(self, num_samples: int) -> None:
        """Begin behind the first samples of this process, on resuming; none is loaded."""
        if num_samples < 0:
            raise ValueError(f"num_samples is {num_samples}, but must not be negative.")
        self._start = num_samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the stream has no end."""

    def _of_rank(self) -> Iterator[int]:
        for megabatch in self._megabatches():
            for batch in megabatch[self.rank :: self.world_size]:
                yield from batch

    def _infinite_indices(self) -> Iterator[int]:
        """Yield the samples of all processes, as mmengine's InfiniteSampler does."""
        for megabatch in self._megabatches():
            for batch in megabatch:
                yield from batch

    def _megabatches(self) -> Iterator[list[list[int]]]:
        """Yield megabatches of W * A batches each; process r has every W-th, from the r-th on."""
        generator = torch.Generator().manual_seed(self.seed)
        num_batches = self.world_size * self.accumulated
        size = num_batches * self.batch_size
        left: list[np.ndarray] = [np.empty(0, np.int64) for _ in self._modalities]
        while True:
            ready: list[np.ndarray] = []
            for number, own in enumerate(self._modalities):
                stream = _next_pass(left[number], own, size, generator)
                full = len(stream) // size * size
                left[number] = stream[full:]
                ready += list(stream[:full].reshape(-1, size))
            for place in torch.randperm(len(ready), generator=generator).tolist():
                megabatch = ready[place]
                longest = np.argsort(-self._lengths[megabatch], kind="stable")
                yield even_batches(megabatch[longest].tolist(), self._lengths, num_batches)


def _next_pass(
    left: np.ndarray, own: np.ndarray, size: int, generator: torch.Generator
) -> np.ndarray:
    """Return what is left of a pass and the next one, no sample twice in the first megabatch."""

    def shuffled(samples: np.ndarray) -> np.ndarray:
        return samples[torch.randperm(len(samples), generator=generator).numpy()]

    others = shuffled(np.setdiff1d(own, left))
    room = size - len(left)
    rest = shuffled(np.concatenate([others[room:], left]))
    return np.concatenate([left, others[:room], rest])
