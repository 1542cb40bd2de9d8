"""A cache folder at an address: copied there, read from there, never read wrongly."""

import shutil

import pytest
import torch

from tests.unit.backbones.test_token_cache import GRID, Network, look_up, make, source, views
from tove.backbones.feature_cache.card import read_card, write_card
from tove.backbones.feature_cache.remote import copy_to, local_folder
from tove.errors import ConfigError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def own_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "copies"))


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    yield f"{request.param}://{tmp_path}/store/tokens"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def folder(tmp_path):
    """A folder with the tokens of four views."""
    ids, images = views(4)
    cache = make(tmp_path / "here", codec="pool+bf16")
    look_up(cache, ids, images, Network())
    cache.disk.commit()
    opened = cache.open(source(), GRID, 8)
    write_card(tmp_path / "here", {opened.table.key: {"licence": "MIT"}}, [])
    return tmp_path / "here"


def read(address, number):
    ids, images = views(number)
    cache, network = make(address, "read", "pool+bf16"), Network()
    tokens = look_up(cache, ids, images, network)
    assert network.seen == 0
    return tokens, cache


def test_tokens_at_an_address_are_those_of_the_folder(folder, address):
    assert copy_to(folder, address) == 4  # shard, table.json, card and its page
    expected, _ = read(folder, 4)
    tokens, cache = read(address, 4)
    assert torch.equal(tokens, expected)
    (licence,) = [t["licence"] for t in read_card(cache.folder)["tables"].values()]
    assert licence == "MIT"
    assert not list(cache.folder.rglob(".*.tmp"))


def test_what_is_here_is_not_fetched_again_and_what_is_new_is(folder, address):
    copy_to(folder, address)
    _, cache = read(address, 4)
    (shard,) = cache.folder.glob("fake-*/*-*.safetensors")
    before = shard.stat().st_mtime_ns
    ids, images = views(6)
    grown = make(folder, codec="pool+bf16")
    look_up(grown, ids, images, Network())
    grown.disk.commit()
    assert copy_to(folder, address) == 3  # one shard more, and the two that grow
    with pytest.raises(ConfigError, match="lacks the tokens of"):
        look_up(cache, ids, images, Network())  # which was opened before
    assert torch.equal(read(address, 6)[0], read(folder, 6)[0])
    assert shard.stat().st_mtime_ns == before


def test_a_copy_that_broke_off_is_mended_and_a_damaged_one_named(folder, address):
    copy_to(folder, address)
    store, base = fsspec.url_to_fs(address)
    (shard,) = store.glob(f"{base}/fake-*/*-*.safetensors")
    content = store.cat_file(shard)
    store.pipe_file(shard, content[:100])
    with pytest.raises(ConfigError, match=shard.rpartition("/")[2]):
        read(address, 4)
    assert copy_to(folder, address) == 3
    shutil.rmtree(local_folder(address))  # as its message says of what is damaged
    assert torch.equal(read(address, 4)[0], read(folder, 4)[0])


def test_fitted_codecs_come_along(tmp_path, address):
    ids, images = views(4)
    cache = make(tmp_path / "here", codec="pca3+fp32")
    opened = cache.open(source(), GRID, 8)
    from tove.backbones.feature_cache.fitted import fit

    fit(opened.codec, opened.table.folder, Network()(images), Network()(images))
    expected = look_up(cache, ids, images, Network())
    cache.disk.commit()
    copy_to(tmp_path / "here", address)
    found = look_up(make(address, "read", "pca3+fp32"), ids, images, Network())
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", ["write", "read-through"])
def test_an_address_is_not_written_to(mode, address):
    with pytest.raises(ConfigError, match=f"read alone, and the mode is '{mode}'.*--copy-to"):
        make(address, mode)
    with pytest.raises(ConfigError, match="read alone"):
        make(address, "read", experts={"fake": {"mode": mode}})


def test_what_cannot_be_read_is_a_sentence(monkeypatch):
    with pytest.raises(ConfigError, match=r"Protocol not known.*tove_plugins\[fsspec\]"):
        make("nowhere://bucket/tokens", "read")

    def refuse(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "glob", refuse)
    with pytest.raises(ConfigError, match=r"bucket cannot be read: PermissionError: Access Denied"):
        make("memory://bucket", "read")
