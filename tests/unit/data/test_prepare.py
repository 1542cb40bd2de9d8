"""The tiny world is written where it is asked for, and nothing of a user's is lost for it."""

import contextlib
import itertools
import os
import shutil

import pytest
from mmengine.config import Config

from tove.data.prepare import prepare_data
from tove.data.tiny_world.write import write_scenes
from tove.errors import ConfigError

COUNTS = dict(train=2, unlabelled=1, val=1, test=1)


def world(root, **settings) -> Config:
    scenes = dict(data_root=str(root), **{**COUNTS, **settings})
    return Config(dict(data_root=str(root), scenes=scenes))


def test_a_folder_of_the_user_s_is_not_removed(tmp_path):
    mine = tmp_path / "world.partial" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("years")
    with pytest.raises(ConfigError, match=r"world\.partial first, .*move it away"):
        prepare_data(world(tmp_path / "world"))
    assert mine.read_text() == "years"


def test_the_leftovers_of_a_killed_try_are_removed(tmp_path, monkeypatch):
    from tove.data.tiny_world import write

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_split", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before it could clean up
        with pytest.raises(KeyboardInterrupt):
            write_scenes(tmp_path / "world", **COUNTS)
    assert (tmp_path / "world.partial").is_dir()
    prepare_data(world(tmp_path / "world"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["world"]


class Killed(BaseException):
    pass


def test_a_kill_before_any_change_of_names_is_made_good(tmp_path, monkeypatch):
    """A try of before is there as well, which is removed first."""
    from tove.data.tiny_world import write

    root = tmp_path / "world"

    def paint(partial, split, *_):
        for folder in ("images", "unlabelled", "annotations"):
            (partial / folder / split.name).write_text("")

    monkeypatch.setattr(write, "_write_split", paint)
    for point in itertools.count(1):
        (tmp_path / "world.partial/images").mkdir(parents=True)
        (tmp_path / "world.partial/scenes.json").touch()
        seen = itertools.count(1)

        def dying(real, seen=seen, point=point):
            def call(*args, **kwargs):
                if next(seen) >= point:
                    raise Killed  # now, and whatever would clean up
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in ("mkdir", "replace", "rmdir", "unlink"):
                patch.setattr(os, name, dying(getattr(os, name)))
            with contextlib.suppress(Killed):
                write_scenes(root, **COUNTS)
        if next(seen) <= point:
            break
        write_scenes(root, **COUNTS)
        assert [path.name for path in tmp_path.iterdir()] == ["world"]
        shutil.rmtree(root)
    assert point > 8


def test_a_place_that_cannot_be_written_to_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written to .*file/world .*make room there"):
        prepare_data(world(tmp_path / "file" / "world"))


@pytest.mark.parametrize("text", ['{"train": 2', "[]", ""])
def test_settings_of_a_world_that_were_cut_are_a_sentence(tmp_path, text):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "scenes.json").write_text(text)
    with pytest.raises(ConfigError, match=r"scenes\.json.* settings .*delete its folder"):
        prepare_data(world(tmp_path))


@pytest.mark.parametrize("settings", [dict(train=0), dict(seed=-1), dict(test=2.5), dict(val="x")])
def test_settings_out_of_range_are_told(tmp_path, settings):
    with pytest.raises(ConfigError, match=rf"^scenes\.{next(iter(settings))} is "):
        prepare_data(world(tmp_path / "world", **settings))


def test_a_world_from_before_there_were_conversations_is_to_be_written_anew(tmp_path):
    cfg = world(tmp_path / "world")
    prepare_data(cfg)
    file = "annotations/conversations_train.json"
    cfg.train_dataloader = dict(
        dataset=dict(type="LlavaConversations", data_root=cfg.data_root, ann_file=file)
    )
    prepare_data(cfg)
    (tmp_path / "world" / file).unlink()
    with pytest.raises(ConfigError, match=r"earlier version, .*; delete .*world, and the next run"):
        prepare_data(cfg)
