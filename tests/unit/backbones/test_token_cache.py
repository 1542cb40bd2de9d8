"""Frozen tokens on disk: what is a miss, what is found damaged, what comes back."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tove.backbones.feature_cache.card import tables_of
from tove.backbones.feature_cache.codecs import Codec
from tove.backbones.feature_cache.key import Source, describe_encoder, describe_expert, table_key
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.errors import ConfigError
from tove.modules.view_key import ViewKey, view_digest, view_digests

GRID = (2, 2)
DESCRIPTION = {
    "name": "fake",
    "distribution": "fakes",
    "version": "1.0",
    "weights": "ab" * 32,
    "options": {},
    "spec": {"tokens": {"width": 8}, "image": {"size": [8, 8]}},
    "dtype": "float32",
}


def source(**changes):
    described = {**DESCRIPTION, **changes}
    return Source("fake", str(changes), 8, (4, 4), False, lambda: described)


class Network:
    """Sixteen tokens of eight numbers that depend on the image; counts what it is given."""

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return torch.nn.functional.pixel_unshuffle(images, 2).flatten(2)[:, :8].transpose(1, 2)


def views(number, first=0):
    pixels = torch.stack(
        [
            torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(first + n))
            for n in range(number)
        ]
    ).to(torch.uint8)
    return [ViewKey(view_digest(view)) for view in pixels], pixels.float() / 255


def look_up(cache, ids, images, network, of=None):
    return cache.get_or_compute(of or source(), GRID, ids, images, network)


def make(folder, mode="read-through", codec="fp32", **options):
    return TokenCache(dir=str(folder), mode=mode, codec=codec, **options)


@pytest.fixture
def filled(tmp_path):
    """A folder with the tokens of six views, and what they are."""
    ids, images = views(6)
    cache = make(tmp_path)
    tokens = look_up(cache, ids, images, Network())
    cache.disk.commit()
    return tmp_path, ids, images, tokens


def test_what_was_written_is_read_to_the_bit_and_nothing_runs(filled):
    folder, ids, images, tokens = filled
    network = Network()
    for mode in ("read", "read-through"):
        assert torch.equal(look_up(make(folder, mode), ids, images, network), tokens)
    assert torch.equal(tokens, Network()(images))
    assert network.seen == 0


def test_views_without_pixels_are_read_too(filled):
    folder, ids, _, tokens = filled
    order = [3, 0, 3, 5]
    nothing = torch.empty(4, 3, 0, 8)
    found = look_up(make(folder), [ids[i] for i in order], nothing, Network())
    assert torch.equal(found, tokens[order])


def test_an_image_twice_is_kept_once(tmp_path):
    ids, images = views(2)
    cache, network = make(tmp_path), Network()
    twice = [0, 1, 0, 1, 0]
    found = look_up(cache, [ids[i] for i in twice], images[twice], network)
    cache.disk.commit()
    assert network.seen == 2
    assert torch.equal(found, network(images)[twice])
    (opened,) = make(tmp_path).open(source(), GRID, 8).table.refresh()._shards
    assert len(opened) == 2


CHANGES = {
    "name": "other",
    "distribution": "others",
    "version": "1.1",
    "weights": "cd" * 32,
    "options": {"layer": -2},
    "spec": {"tokens": {"width": 8}, "image": {"size": [8, 8], "mean": [0, 0, 0]}},
    "dtype": "bfloat16",
}


@pytest.mark.parametrize("part", CHANGES)
def test_another_expert_is_a_miss(part, filled):
    folder, ids, images, _ = filled
    network, other = Network(), source(**{part: CHANGES[part]})
    look_up(make(folder), ids, images, network, other)
    assert network.seen == 6
    with pytest.raises(ConfigError, match="lacks the tokens of"):
        look_up(make(folder, "read"), ids, images, network, source(**{part: [CHANGES[part], 1]}))


@pytest.mark.parametrize("codec", ["bf16", "int8", "pool+fp32"])
def test_another_codec_is_a_miss(codec, filled):
    folder, ids, images, _ = filled
    network = Network()
    look_up(make(folder, codec=codec), ids, images, network)
    assert network.seen == 6


def test_another_view_of_the_same_image_is_a_miss(filled):
    folder, _, images, _ = filled
    network = Network()
    larger = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    larger_ids = [ViewKey(view_digest((view * 255).round().to(torch.uint8))) for view in larger]
    look_up(make(folder), larger_ids, larger, network)
    assert network.seen == 6


def test_one_other_pixel_is_a_miss(filled):
    folder, _, images, tokens = filled
    network = Network()
    changed = images.clone()
    changed[2, 1, 4, 4] = (changed[2, 1, 4, 4] * 255 + 1) % 256 / 255
    found = look_up(make(folder), [f"i{n}" for n in range(6)], changed, network)
    assert network.seen == 1
    assert torch.equal(found, Network()(changed))
    assert torch.equal(found[:2], tokens[:2])


@pytest.mark.parametrize("codec", ["fp32", "pool+pca8+fp32"])
def test_a_network_that_mirrors_keeps_one_entry_for_a_view_and_its_mirror_image(tmp_path, codec):
    def network(images):
        count.append(len(images))
        return torch.nn.functional.avg_pool2d(images, 2).flatten(2).mT.repeat(1, 1, 3)[..., :8]

    def look(cache, rows):
        return look_up(cache, [keys[row] for row in rows], both[rows], network, mirroring)

    count, mirroring = [], replace(source(), mirrors=True)
    ids, images = views(3)
    both = torch.cat([images, images.flip(3)])
    flipped = view_digests(images.flip(3))
    keys = ids + [ViewKey(a, mirror_of=b) for a, b in zip(flipped, ids, strict=True)]
    cache = make(tmp_path, codec=codec)
    opened = cache.open(mirroring, GRID, 8)
    opened.codec.fit(network(images))
    for rows in ([0, 4], [2, 5, 3, 1]):  # images, mirrored ones of others, and both of one
        expected = opened.codec.decode(opened.codec.encode(network(both[rows])))
        count.clear()
        torch.testing.assert_close(look(cache, rows), expected)
        assert count == ([2] if rows == [0, 4] else [1])
    assert len(opened.table.pending) == 3
    off = make(tmp_path / "other", codec="fp32")
    look_up(off, keys, both, network)  # one that does not mirror
    assert len(off.open(source(), GRID, 8).table.pending) == 6


def test_ids_of_paths_are_looked_up_by_their_pixels(filled):
    folder, _, images, tokens = filled
    network = Network()
    assert torch.equal(look_up(make(folder, "read"), list("abcdef"), images, network), tokens)
    assert view_digests(torch.full((1, 3, 2, 2), 0.3)) == [None]  # no uint8 gives .3 in float32


def test_pixels_that_no_uint8_gives_are_computed_and_not_kept(filled):
    folder, _, images, tokens = filled
    mixed, network = torch.cat([images[:1], images[:1] / 2, images[1:2]]), Network()
    ids = ["crop photos/0.png", "crop photos/half.png", "crop photos/1.png"]
    cache = make(folder)
    for _ in range(2):
        found = look_up(cache, ids, mixed, network)
        torch.testing.assert_close(found, torch.stack([tokens[0], tokens[0] / 2, tokens[1]]))
    assert network.seen == 2
    assert not cache.open(source(), GRID, 8).table.pending
    with pytest.raises(ConfigError, match=r"1 images of a batch, first crop photos/half\.png\."):
        look_up(make(folder, "read"), ids, mixed, network)


@pytest.mark.parametrize("change", ["weight", "buffer", "layer"])
def test_every_weight_of_the_encoder_is_in_its_key(change, clip_folder):
    from tove.backbones.clip.encoder import TransformersCLIP

    first, second = (TransformersCLIP(clip_folder) for _ in range(2))
    assert table_key(describe_encoder(first)) == table_key(describe_encoder(second))
    if change == "weight":
        list(second.parameters())[-1].data.view(-1)[-1] += 1e-3
    elif change == "buffer":
        second.preprocess.mean[0] += 0.01
    else:
        second.layer = -2
    assert table_key(describe_encoder(first)) != table_key(describe_encoder(second))


def test_options_that_leave_weights_and_spec_alone_are_in_an_expert_s_key(expert_types):
    class Scaled(expert_types["fine"]):
        spec = replace(expert_types["fine"].spec, options={"scale": 1.0})

    keys = [table_key(describe_expert({"type": Scaled, **o})) for o in ({}, {"scale": 2.0})]
    assert keys[0] != keys[1]


def test_an_expert_without_a_declared_digest_is_known_by_its_weights(expert_types):
    kind = expert_types["coarse"]
    torch.manual_seed(0)
    networks = [kind(), kind()]
    keys = {table_key(describe_expert({"type": kind}, lambda n=n: n)) for n in networks}
    assert len(keys) == 2


def shard_of(folder) -> Path:
    (path,) = folder.glob("fake-*/*.safetensors")
    return path


@pytest.mark.parametrize("place", range(100))
def test_a_flipped_byte_is_found_and_named_and_mended(place, filled):
    folder, ids, images, tokens = filled
    path = shard_of(folder)
    content = bytearray(path.read_bytes())
    content[place * len(content) // 100] ^= 1 << place % 8
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=path.name):
        look_up(make(folder, "read"), ids, images, Network())
    network, cache = Network(), make(folder)
    assert torch.equal(look_up(cache, ids, images, network), tokens)
    assert network.seen > 0
    cache.disk.commit()
    network = Network()
    assert torch.equal(look_up(make(folder), ids, images, network), tokens)
    assert network.seen == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_truncated_shard_is_found(share, mapped, filled):
    folder, ids, images, tokens = filled
    cache, network = make(folder), Network()
    if mapped:
        look_up(cache, ids, images, network)
    path = shard_of(folder)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)]) if not mapped else None
    if mapped:
        with path.open("r+b") as stream:
            stream.truncate(int(share * path.stat().st_size))
    assert torch.equal(look_up(cache, ids, images, network), tokens)
    assert network.seen == 6
    with pytest.raises(ConfigError, match=path.name):
        look_up(make(folder, "read"), ids, images, network)


def test_a_shard_of_another_table_gives_nothing(filled):
    folder, ids, images, _ = filled
    other = source(version="2")
    make(folder).open(other, GRID, 8)
    (stranger,) = [f for f in folder.glob("fake-*") if not list(f.glob("*.safetensors"))]
    (stranger / "x-00000.safetensors").write_bytes(shard_of(folder).read_bytes())
    network = Network()
    look_up(make(folder), ids, images, network, other)
    assert network.seen == 6


@pytest.mark.parametrize("text", ["7", "{", '["x"]', '{"codec": "bf16"}'])
def test_a_description_that_is_damaged_is_named(tmp_path, text):
    (tmp_path / "clip-0").mkdir()
    (tmp_path / "clip-0/table.json").write_text(text)
    with pytest.raises(ConfigError, match=r"table\.json is damaged .* remove .*clip-0"):
        list(tables_of(tmp_path))


def test_two_writers_share_a_folder(tmp_path):
    ids, images = views(8)
    first, second = make(tmp_path), make(tmp_path)
    for cache, rows in ((first, [0, 1, 2, 3]), (second, [2, 3, 4, 5]), (first, [6, 7])):
        look_up(cache, [ids[i] for i in rows], images[rows], Network())
        cache.disk.commit()
    network = Network()
    found = look_up(make(tmp_path, "read"), ids, images, network)
    assert torch.equal(found, network(images))
    assert len({path.name for path in tmp_path.glob("fake-*/*.safetensors")}) == 3


def test_a_full_disk_loses_no_finished_shard(tmp_path, monkeypatch):
    ids, images = views(8)
    cache = make(tmp_path)
    look_up(cache, ids[:4], images[:4], Network())
    cache.disk.commit()
    look_up(cache, ids, images, Network())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*finished are kept"):
        cache.disk.commit()
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp"))
    network, again = Network(), make(tmp_path)
    look_up(again, ids, images, network)
    assert network.seen == 4
    again.disk.commit()
    cache.disk.commit()  # what did not fit is still there to be written


def test_write_computes_and_keeps(filled):
    folder, ids, images, tokens = filled
    more_ids, more = views(2, first=6)
    cache, network = make(folder, "write"), Network()
    found = look_up(cache, ids + more_ids, torch.cat([images, more]), network)
    assert network.seen == 8
    assert torch.equal(found[:6], tokens)
    cache.disk.commit()
    assert len(cache.open(source(), GRID, 8).table) == 8


def test_off_keeps_nothing_and_gives_the_expert_s_own_grid(tmp_path):
    ids, images = views(2)
    cache = make(tmp_path, experts={"fake": {"mode": "off"}}, codec="pool+bf16")
    assert look_up(cache, ids, images, Network()).shape == (2, 16, 8)
    assert cache.grid_of(source(), GRID) == (4, 4)
    assert not list(tmp_path.iterdir())


def test_each_expert_may_have_its_own_codec(tmp_path):
    cache = make(tmp_path, codec="bf16", experts={"fake": {"codec": "pool+int8"}})
    assert cache.codec_of(source(), GRID).text == "pool+int8"
    assert cache.codec_of(replace(source(), slot="other"), GRID).text == "bf16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "read"}, "no dir"),
        ({"dir": "x", "experts": {"a": {"codex": "fp32"}}}, "experts.a.codex is unknown"),
        ({"dir": "x", "experts": {"a": {"mode": "reed"}}}, "must be one of"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TokenCache(**options)


def tokens_of(number):
    generator = torch.Generator().manual_seed(number)
    mixing = torch.randn(3, 8, generator=torch.Generator().manual_seed(9))
    return torch.randn(number, 16, 3, generator=generator) @ mixing


@pytest.mark.parametrize(
    ("text", "num_bytes", "error"),
    [
        ("fp32", 16 * 8 * 4, 0.0),
        ("bf16", 16 * 8 * 2, 1e-5),
        ("int8", 16 * 8 + 8 * 4, 1e-4),
        ("pool+fp32", 4 * 8 * 4, 0.0),
        ("pca3+fp32", 16 * 3 * 4, 1e-9),
        ("pool+pca3+int8", 4 * 3 + 3 * 4, 1e-4),
    ],
)
def test_codecs_lose_what_they_say(text, num_bytes, error):
    codec = Codec(text, source(), GRID)
    codec.fit(tokens_of(20))
    assert codec.entry_bytes == num_bytes
    assert codec.error(tokens_of(7)) <= error
    encoded = codec.encode(tokens_of(7))
    assert sum(a[0].numel() * a.element_size() for a in encoded.values()) == num_bytes


def test_fewer_directions_lose_what_the_others_hold():
    tokens = tokens_of(200)
    codec = Codec("pca2+fp32", source(), GRID)
    codec.fit(tokens)
    spectrum = torch.linalg.svdvals(tokens.flatten(0, 1) - tokens.mean((0, 1))).square()
    assert codec.error(tokens) == pytest.approx(
        float(spectrum[2:].sum() / spectrum.sum()), rel=1e-3
    )


def test_maps_and_coarse_grids_are_not_pooled():
    assert Codec("pool+bf16", replace(source(), is_map=True), GRID).grid == (4, 4)
    assert Codec("pool+bf16", source(), (7, 7)).grid == (4, 4)


@pytest.mark.parametrize("text", ["", "pool", "fp16", "bf16+pool", "pca0+bf16", "pca9+bf16"])
def test_a_codec_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError, match="codec"):
        Codec(text, source(), GRID)


def test_pca_must_be_fitted_before_anything_is_kept(tmp_path):
    ids, images = views(2)
    with pytest.raises(ConfigError, match="has not been fitted"):
        look_up(make(tmp_path, codec="pca2+bf16"), ids, images, Network())


def test_memory_stands_before_the_disk(filled, monkeypatch):
    folder, ids, images, tokens = filled
    cache = make(folder, max_gb=1e-3)
    assert torch.equal(look_up(cache, ids, images, Network()), tokens)
    monkeypatch.setattr(cache.disk, "get_or_compute", None)
    assert torch.equal(look_up(cache, ids, images, Network()), tokens)


def test_published_tokens_need_no_package(tmp_path, make_model, expert_types, batch):
    from tove.backbones.feature_cache.card import read_card, register_card, write_card
    from tove.registry import EXPERTS

    EXPERTS.register_module(name="fine", module=expert_types["fine"])
    options = dict(
        experts={"other": {"type": "fine"}},
        token_cache=dict(dir=str(tmp_path), codec="pool+fp32"),
    )
    model = make_model(**options).eval()
    images, ids = batch["images"], ["a", "b", "c"]
    expected = model.fuse(images, ids).t_fuse
    model.cache.disk.commit()
    opened = model.cache.open(model.sources["other"], model.encoder.grid, 40)
    spec = expert_types["fine"].spec.as_dict()
    about = {opened.table.key: {"licence": "MIT", "trained_on": "dots", "expert": spec}}
    write_card(tmp_path, about, [{"files": "a.json", "images": 3, "licence": "CC0-1.0"}])
    assert "| MIT | dots |" in (tmp_path / "README.md").read_text()
    assert "CC0-1.0" in (tmp_path / "README.md").read_text()
    assert len(read_card(tmp_path)["tables"]) == 2
    del EXPERTS.module_dict["fine"]  # the package goes
    try:
        register_card(tmp_path)
        options["token_cache"]["mode"] = "read"
        reader = make_model(**options).eval()
        reader.load_trainable(model.state_dict())
        assert torch.equal(reader.fuse(images, ids).t_fuse, expected)
        assert reader.hub.absent() == ["other"]
        assert reader.hub.experts["other"].expert is None
    finally:
        EXPERTS.module_dict.pop("fine", None)
