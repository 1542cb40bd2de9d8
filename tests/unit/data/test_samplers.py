from itertools import islice

import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, InfiniteSampler

from tove.data import samplers
from tove.data.samplers import ModalityLengthSampler, even_batches
from tove.errors import ConfigError
from tove.registry import DATA_SAMPLERS


class Data:
    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def __len__(self):
        return len(self.lengths)

    def modality_lengths(self):
        return self.lengths


@pytest.fixture
def data():
    chance = np.random.default_rng(0)
    lengths = chance.integers(1, 500, 103)
    lengths[chance.permutation(103)[:23]] *= -1
    return Data(lengths)


@pytest.fixture
def streams(data, monkeypatch):
    def make(world_size=1, batch_size=4, seed=0, source=None, **options):
        made = []
        for rank in range(world_size):
            monkeypatch.setattr(samplers, "get_dist_info", lambda rank=rank: (rank, world_size))
            made.append(ModalityLengthSampler(source or data, batch_size, seed=seed, **options))
        return made

    return make


def batches(sampler, size, count):
    stream = iter(sampler)
    return [list(islice(stream, size)) for _ in range(count)]


def llavas_chunks(indices, lengths, num_chunks):
    """LLaVA's `split_to_even_chunks`, written out plainly."""
    chunks, totals = [[] for _ in range(num_chunks)], [0.0] * num_chunks
    for index in indices:
        shortest = totals.index(min(totals))
        chunks[shortest].append(index)
        totals[shortest] += lengths[index]
        if len(chunks[shortest]) == len(indices) // num_chunks:
            totals[shortest] = float("inf")
    return chunks


def test_a_megabatch_is_dealt_out_as_llava_does() -> None:
    chance = np.random.default_rng(1)
    for num_batches in (1, 2, 8):
        lengths = chance.integers(1, 300, 64)
        indices = np.argsort(-lengths).tolist()
        assert even_batches(indices, lengths, num_batches) == llavas_chunks(
            indices, lengths, num_batches
        )
        totals = [lengths[batch].sum() for batch in even_batches(indices, lengths, num_batches)]
        assert max(totals) < 1.15 * min(totals)


def test_all_processes_have_one_modality_at_a_time_and_different_samples(data, streams) -> None:
    ranks = [batches(sampler, 4, 60) for sampler in streams(world_size=3, seed=5)]
    kinds = set()
    for step in zip(*ranks, strict=True):
        together = [index for batch in step for index in batch]
        signs = set(np.sign(data.lengths[together]).tolist())
        assert len(signs) == 1
        assert len(set(together)) == 12
        totals = [np.abs(data.lengths[batch]).sum() for batch in step]
        assert max(totals) < 2.5 * min(totals)
        kinds |= signs
    assert kinds == {1, -1}


def test_each_sample_comes_once_a_pass_and_none_is_lost(data, streams) -> None:
    (sampler,) = streams()
    seen = np.bincount(list(islice(iter(sampler), 103 * 40)), minlength=103)
    assert seen.min() >= 38
    assert seen.max() <= 42
    share = seen[data.lengths < 0].sum() / seen.sum()
    assert share == pytest.approx(23 / 103, abs=0.01)


def test_accumulated_steps_share_a_megabatch(data, streams) -> None:
    ranks = [batches(sampler, 2, 40) for sampler in streams(2, 2, accumulated=3)]
    for first in range(0, 39, 3):
        together = [i for rank in ranks for batch in rank[first : first + 3] for i in batch]
        assert len(together) == 12
        assert len(set(np.sign(data.lengths[together]).tolist())) == 1


def test_the_stream_is_the_seeds_and_resumes_anywhere(streams) -> None:
    whole = list(islice(iter(streams(2)[1]), 500))
    assert list(islice(iter(streams(2)[1]), 500)) == whole
    assert list(islice(iter(streams(2, seed=1)[1]), 500)) != whole
    for done in (0, 4, 132, 300):
        sampler = streams(2)[1]
        sampler.skip(done)
        assert list(islice(iter(sampler), 500 - done)) == whole[done:]
    assert len(sampler) == len(InfiniteSampler(range(103), seed=0)) == 103
    with pytest.raises(ValueError, match="must not be negative"):
        sampler.skip(-1)


def test_one_modality_alone_and_fewer_samples_than_a_megabatch(streams) -> None:
    (sampler,) = streams(source=Data([5, 6, 7]), batch_size=4)
    seen = list(islice(iter(sampler), 24))
    assert np.bincount(seen).tolist() == [8, 8, 8]
    (sampler,) = streams(source=Data([-5] * 9), batch_size=4)
    assert len(set(islice(iter(sampler), 8))) == 8


def test_lengths_come_through_wrappers_and_the_registry(data) -> None:
    class Wrapped(ConcatDataset):
        def __init__(self, parts):
            self.datasets = parts

    kind = dict(type="ModalityLengthSampler", batch_size=4)
    both = Wrapped([data, Data([7, -8])])
    sampler = DATA_SAMPLERS.build(kind, default_args=dict(dataset=both, seed=0))
    assert len(sampler) == 105
    with pytest.raises(ConfigError, match="does not have; use it with LlavaConversations"):
        ModalityLengthSampler(range(3), 4)


def test_a_pass_over_665k_samples_is_planned_in_seconds() -> None:
    chance = np.random.default_rng(0)
    lengths = chance.integers(1, 500, 665_298)
    lengths[chance.permutation(665_298)[:40_688]] *= -1
    sampler = ModalityLengthSampler(Data(lengths), 128, seed=0)
    sampler.skip(600_000)
    assert len(set(islice(iter(sampler), 128))) == 128
