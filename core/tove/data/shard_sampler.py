"""An endless order of samples in which every shard is read from front to back.

    consumers   the W workers of each of R processes; a process's batches are its workers' in turn
    source      a data set; its shards come in a new random order each pass, and consumer c of the
                C = R W takes every C-th of them
    mixing      a consumer draws its next sample from a source with a chance by the source's size
    shuffling   it goes into a buffer, from which a random one is taken

Only numbers are ordered here, so that going on where a run stopped reads nothing again.
"""

from collections.abc import Iterator
from itertools import chain, count, cycle, islice
from typing import Annotated, Any

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from tove.config.validation import Range
from tove.registry import DATA_SAMPLERS

__all__ = ["ShardSampler"]

_AT_ONCE = 4096  # random numbers


@DATA_SAMPLERS.register_module()
class ShardSampler(Sampler):
    """The samples of a process, shards dealt out to processes and their workers.

    Args:
        dataset: `ImageTextShards`, or a ConcatDataset of some with others, whose samples count as
            shards of one.
        batch_size: of one process, as the loader has it.
        num_workers: as the loader has it.
        buffer: samples of a worker among which order is random.
        seed: the same on every process; None draws one for all.
    """

    def __init__(
        self,
        dataset: Any,  # noqa: ANN401
        batch_size: int,
        num_workers: int = 0,
        buffer: Annotated[int, Range(1)] = 10_000,
        seed: int | None = None,
    ) -> None:
        self.rank, self.world_size = get_dist_info()
        self.batch_size, self.workers = batch_size, max(1, num_workers)
        self.seed = sync_random_seed() if seed is None else seed
        parts = getattr(dataset, "datasets", [dataset])
        bounds = [getattr(p, "shard_bounds", np.arange(len(p) + 1)) for p in parts]
        starts = np.cumsum([0, *map(len, parts)])
        self._sources = [own + start for own, start in zip(bounds, starts, strict=False)]
        self._size = int(starts[-1])
        own_share = self._size // (self.world_size * self.workers)
        self.buffer = min(buffer, max(1, own_share))
        self._start = 0

    def __len__(self) -> int:
        """Return the number of samples of the data set, as mmengine's InfiniteSampler does."""
        return self._size

    def __iter__(self) -> Iterator[int]:
        """Yield indices of this process's samples."""
        start, self._start = self._start, 0
        yield from islice(self._of_process(self.rank), start, None)

    def skip(self, num_samples: int) -> None:
        """Begin behind the first samples of this process, on resuming; none is loaded."""
        self._start = num_samples

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the stream has no end."""

    def _infinite_indices(self) -> Iterator[int]:
        """Yield the samples of all processes in turn, as mmengine's InfiniteSampler does."""
        each = [self._of_process(rank) for rank in range(self.world_size)]
        yield from chain.from_iterable(zip(*each, strict=True))

    def _of_process(self, rank: int) -> Iterator[int]:
        """Yield a batch of each worker in turn, which is whose batch the loader makes it."""
        workers = [self._of_consumer(rank * self.workers + own) for own in range(self.workers)]
        for worker in cycle(workers):
            yield from islice(worker, self.batch_size)

    def _of_consumer(self, consumer: int) -> Iterator[int]:
        chance = np.random.default_rng((self.seed, consumer))
        sources = [self._of_source(number, consumer) for number in range(len(self._sources))]
        sizes = np.array([bounds[-1] - bounds[0] for bounds in self._sources])
        waiting: list[int] = []
        while True:
            picks = chance.choice(len(sources), _AT_ONCE, p=sizes / self._size).tolist()
            places = chance.integers(self.buffer, size=_AT_ONCE).tolist()
            for pick, place in zip(picks, places, strict=True):
                if len(waiting) < self.buffer:
                    waiting.append(next(sources[pick]))
                    continue
                yield waiting[place]
                waiting[place] = next(sources[pick])

    def _of_source(self, number: int, consumer: int) -> Iterator[int]:
        """Yield a consumer's samples of a source, shard by shard, without end."""
        bounds, place = self._sources[number], consumer
        for turn in count():
            order = np.random.default_rng((self.seed, number, turn)).permutation(len(bounds) - 1)
            own = order[place :: self.world_size * self.workers].tolist()
            for shard in own:
                yield from range(int(bounds[shard]), int(bounds[shard + 1]))
            place += len(own) * self.world_size * self.workers - len(order)
