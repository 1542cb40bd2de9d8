"""Image-text pairs in tars, as img2dataset writes them, and the order in which they are read."""

import os
import tarfile
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from tests.benchmark_files import jpeg, shards, tar
from tove.config.data_sets import fill_in
from tove.data import CorruptImage, TooManyCorruptImages, shard_sampler, tove_collate
from tove.data.benchmarks import shard_index
from tove.data.look_over import look_over
from tove.data.shard_sampler import ShardSampler
from tove.engine.images_seen import images_seen
from tove.errors import ConfigError
from tove.registry import DATASETS


@pytest.fixture
def build(tmp_path):
    def make(**options):
        settings = dict(type="ImageTextShards", data_root=str(tmp_path), shards="cc3m/*.tar")
        return DATASETS.build({**settings, "image_size": 8, **options})

    return make


def test_samples_are_those_of_the_tars_in_order(build, tmp_path):
    shards(tmp_path / "cc3m", [3, 2])
    data = build(prompt="A picture of")
    assert len(data) == 5
    targets = [data[number]["sample"]["target"] for number in range(5)]
    assert targets == ["picture 0.0", "picture 0.1", "picture 0.2", "picture 1.0", "picture 1.1"]
    item = data[4]
    assert item["image"].shape == (3, 8, 8)
    assert abs(int(item["image"][0].float().mean()) - 11) <= 2  # JPEG's red of picture 1.1
    sample = item["sample"]
    assert (sample["task"], sample["prompt"]) == ("caption", "A picture of")
    assert sample["image_id"] == f"{tmp_path}/cc3m/00001.tar#1"
    assert data[-1]["sample"]["target"] == "picture 1.1"
    assert len(build(max_samples=4)) == 4


def test_members_of_other_kinds_and_folders_are_passed_over(build, tmp_path):
    members = [
        ("a/1.seg.png", b"x"),
        ("a/1.JPG", jpeg(1)),
        ("a/1.caption", b" a  cat\n"),
        ("b/1.png", jpeg(2)),  # another sample, though of the same name in its folder
        ("b/1.caption", "ein H\u00fcndchen".encode()),
        ("a.long/" + "n" * 120 + ".jpg", jpeg(3)),
        ("a.long/" + "n" * 120 + ".caption", b"long"),
    ]
    tar(tmp_path / "sbu/1.tar", members)
    data = build(shards=["sbu/*.tar"], caption="caption")
    found = [data[number]["sample"]["target"] for number in range(3)]
    assert found == ["a cat", "ein H\u00fcndchen", "long"]


def test_the_index_is_made_once_and_anew_for_changed_tars(build, tmp_path, monkeypatch):
    shards(tmp_path / "cc3m", [2])
    build()
    monkeypatch.setattr(shard_index, "read_shard", None)
    assert len(build()) == 2
    monkeypatch.undo()
    shards(tmp_path / "cc3m", [4])
    assert len(build()) == 4
    assert len(build(index_dir=str(tmp_path / "other"))) == 4
    assert len(list((tmp_path / "other").iterdir())) == 1


def test_broken_samples_are_counted_and_passed_over(build, tmp_path, log):
    members = [
        ("0.jpg", jpeg(0)),
        ("0.txt", b"good"),
        ("1.jpg", b"no image"),
        ("1.txt", b"bad"),
        ("2.txt", b"alone"),
        ("3.jpg", jpeg(3)),
        ("4.jpg", jpeg(4)),
        ("4.txt", b"  "),
    ]
    tar(tmp_path / "cc3m/0.tar", members)
    data = build()
    assert [record for record in log if "2 samples lack an image" in record.getMessage()]
    assert [data[number]["sample"]["target"] for number in range(5)] == ["good"] * 5
    assert data.num_corrupt == 4
    assert [data.is_corrupt(number) for number in range(5)] == [False, True, True, True, True]
    data[2]
    assert data.num_corrupt == 4
    with pytest.raises(CorruptImage, match=r"cc3m/0.tar#1 cannot be read as an image"):
        data.image_views(1)
    with pytest.raises(ConfigError, match=r"2 of the 5 samples .* corrupt_limit"):
        build(corrupt_limit=1)


def test_past_the_limit_the_run_stops(build, tmp_path):
    tar(tmp_path / "cc3m/0.tar", [(f"{n}.{s}", b"x") for n in range(4) for s in ("jpg", "txt")])
    with pytest.raises(TooManyCorruptImages, match="more than corrupt_limit=2"):
        build(corrupt_limit=2)[0]


@pytest.mark.parametrize("kept", [0.6, 0.97])
def test_a_tar_that_ends_early_gives_what_is_before_its_end(build, tmp_path, kept):
    shards(tmp_path / "cc3m", [6, 2])
    path = tmp_path / "cc3m/00000.tar"
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    os.truncate(path, int(end * kept))
    data = build()
    good = [n for n in range(len(data)) if data[n]["sample"]["source_id"] == n]
    texts = [data[number]["sample"]["target"] for number in good]
    assert texts[:2] == ["picture 0.0", "picture 0.1"]
    assert texts[-2:] == ["picture 1.0", "picture 1.1"]
    assert 1 <= data.num_corrupt <= 2


def test_mistakes_are_sentences(build, tmp_path):
    with pytest.raises(ConfigError, match=r"No shard fits 'cc3m/\*\.tar'"):
        build()
    shards(tmp_path / "cc3m", [2])
    with pytest.raises(ConfigError, match=r"both an image and a caption named .text"):
        build(caption="text")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name a folder that can be written to as index_dir"):
        build(index_dir=str(tmp_path / "file"))
    (tmp_path / "cc3m/00000.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match="No sample of"):
        build()


def loader(tmp_path, workers=0, **options):
    shard = dict(type="ImageTextShards", data_root=str(tmp_path), image_size=8, **options)
    loader = dict(
        batch_size=4,
        num_workers=workers,
        sampler=dict(type="ShardSampler", batch_size=4, num_workers=workers, buffer=3),
        dataset=dict(
            type="ConcatDataset",
            datasets=[dict(shard, shards="cc3m/*.tar"), dict(shard, shards="sbu/*.tar")],
        ),
        collate_fn=dict(type=tove_collate),
    )
    return Runner.build_dataloader(loader, seed=5)


@pytest.fixture
def two_sets(tmp_path):
    init_default_scope("tove")
    shards(tmp_path / "cc3m", [5, 7, 4])
    shards(tmp_path / "sbu", [4, 4], "sbu's ")
    return tmp_path


def test_a_loader_reads_them_in_its_workers_and_goes_on_where_it_stopped(two_sets):
    def texts(found, number):
        return [[s["target"] for s in b["data_samples"]] for b in islice(iter(found), number)]

    whole = texts(loader(two_sets, workers=2), 8)
    again = loader(two_sets, workers=2)
    again.sampler.skip(3 * 4)
    assert texts(again, 5) == whole[3:]
    seen = Counter(text for batch in whole for text in batch)
    assert {text.partition("picture")[0] for text in seen} == {"", "sbu's "}
    runner = type("Trained", (), dict(train_dataloader=loader(two_sets, workers=2)))
    assert len(images_seen(runner, 8)) == len(seen)


def test_the_data_is_looked_over_before_training(two_sets):
    data = dict(type="ImageTextShards", shards="cc3m/*.tar")
    sampler = dict(type="ShardSampler")
    cfg = Config(
        dict(
            data_root=str(two_sets),
            image_size=8,
            batch_size=4,
            train_dataloader=dict(dataset=data, num_workers=3, sampler=sampler),
        )
    )
    fill_in(cfg)
    assert cfg.train_dataloader.sampler == dict(type="ShardSampler", batch_size=4, num_workers=3)
    assert look_over(cfg) == ([], [])
    for path in (two_sets / "cc3m").glob("*.tar"):
        tar(path, [("0.jpg", b"no image"), ("0.txt", b"a cat")])
    (problem,) = look_over(cfg).problems
    assert "None of the 3 images looked at can be read" in problem


class Plain:
    def __len__(self):
        return 40


class Shards(Plain):
    shard_bounds = np.arange(0, 41, 10)


@pytest.fixture
def samplers(monkeypatch):
    def make(data, world_size=1, **options):
        made = []
        for rank in range(world_size):
            monkeypatch.setattr(
                shard_sampler, "get_dist_info", lambda rank=rank: (rank, world_size)
            )
            made.append(ShardSampler(data, 5, **{"seed": 3, "buffer": 1, **options}))
        return made

    return make


def test_processes_and_workers_each_have_shards_of_their_own(samplers):
    ranks = samplers(Shards(), world_size=2, num_workers=2)
    passes = [list(islice(sampler, 20)) for sampler in ranks]
    assert sorted(passes[0] + passes[1]) == list(range(40))
    for own in passes:  # two workers' batches take turns
        first, second = own[:5] + own[10:15], own[5:10] + own[15:]
        for worker in (first, second):
            assert worker == list(range(worker[0], worker[0] + 10))
    every = ranks[0]._infinite_indices()
    assert list(islice(every, 40)) == [
        index for pair in zip(*passes, strict=True) for index in pair
    ]


def test_every_pass_has_every_sample_in_another_order(samplers):
    (sampler,) = samplers(Shards())
    stream = list(islice(sampler, 120))
    passes = [stream[:40], stream[40:80], stream[80:]]
    assert [sorted(own) for own in passes] == [list(range(40))] * 3
    assert passes[0] != passes[1] != passes[2]


def test_a_buffer_shuffles_and_fewer_shards_than_readers_suffice(samplers):
    (sampler,) = samplers(Shards(), buffer=20)
    stream = list(islice(sampler, 400))
    assert stream[:10] != list(range(stream[0], stream[0] + 10))
    counts = Counter(stream)
    assert set(counts) == set(range(40))
    assert max(counts.values()) <= 12  # ten times each, but for what waits in the buffer
    ranks = samplers(Shards(), world_size=8)
    counts = Counter(index for sampler in ranks for index in islice(sampler, 50))
    assert counts == dict.fromkeys(range(40), 10)


def test_other_data_sets_are_mixed_in_by_their_size(samplers):
    many = type("Many", (Plain,), dict(__len__=lambda self: 160))()
    both = type("Both", (), dict(datasets=[many, Shards()], __len__=lambda self: 200))()
    (sampler,) = samplers(both, buffer=40)
    stream = list(islice(sampler, 1000))
    of_shards = sum(index >= 160 for index in stream)
    assert 140 < of_shards < 260
    window = [sum(index >= 160 for index in stream[i : i + 50]) for i in range(0, 1000, 50)]
    assert 0 < min(window)
    assert max(window) < 30


def test_wrapped_shards_are_one_data_set(build, tmp_path):
    shards(tmp_path / "cc3m", [3, 2])
    data = build()
    assert data.shard_bounds.tolist() == [0, 3, 5]
    sampler = ShardSampler(ConcatDataset([data, data]), 2, seed=0)
    assert {*islice(sampler, 100)} == set(range(10))
    assert len(sampler) == 10
