"""The store of frozen tokens."""

import torch

from tove.backbones.feature_cache.memory import MemoryStore


class TokenCache(MemoryStore):
    """The store, given images as a model gives them."""

    def get_or_compute(self, source, ids, images, network):
        return super().get_or_compute(source, ids, lambda rows: network(images[rows]), "cpu")


class Network:
    """Tokens that show which image they are of; remembers its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        return images.flatten(1).mean(1)[:, None, None].expand(-1, 2, 3)


def _images(*values):
    return torch.stack([torch.full((3, 4, 4), float(value)) for value in values])


def test_only_the_missing_are_computed_as_one_batch():
    cache, network = TokenCache(1e-3), Network()
    cache.get_or_compute("net", ["a", "b"], _images(1, 2), network)
    tokens = cache.get_or_compute("net", ["c", "b", "d", "a"], _images(3, 2, 4, 1), network)
    assert network.batches == [2, 2]
    assert tokens[:, 0, 0].tolist() == [3, 2, 4, 1]
    again = cache.get_or_compute("net", ["d", "a"], _images(4, 1), network)
    assert network.batches == [2, 2]
    assert again[:, 0, 0].tolist() == [4, 1]


def test_sources_are_apart():
    cache, network = TokenCache(1e-3), Network()
    cache.get_or_compute("one", ["a"], _images(1), network)
    cache.get_or_compute("two", ["a"], _images(1), network)
    assert network.batches == [1, 1]


def test_an_image_twice_in_a_batch_runs_once():
    cache, network = TokenCache(1e-3), Network()
    tokens = cache.get_or_compute("net", ["a", "b", "a"], _images(1, 2, 1), network)
    assert network.batches == [2]
    assert tokens[:, 0, 0].tolist() == [1, 2, 1]


def test_a_full_store_just_computes():
    row = 2 * 3 * 4
    cache, network = TokenCache(2.5 * row / 1e9), Network()
    for _ in range(2):
        tokens = cache.get_or_compute("net", ["a", "b", "c"], _images(1, 2, 3), network)
        assert tokens[:, 0, 0].tolist() == [1, 2, 3]
    assert network.batches == [3, 1]
    assert len(cache) == 2
    assert cache.num_bytes == 2 * row
    cache.clear()
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_stored_rows_do_not_hold_their_batch():
    cache = TokenCache(1e-3)
    cache.get_or_compute("net", ["a", "b"], _images(1, 2), Network())
    assert all(t.untyped_storage().nbytes() == 24 for t in cache._tokens.values())
