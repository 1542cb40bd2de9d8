"""What a later stage could not do is said before the first one trains."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from torch import nn

from tove.errors import ConfigError
from tove.registry import ENCODERS
from tove.runner import StagedRunner

Settings = dict[str, Any]


class NotCLIP(nn.Module):
    pass


@pytest.fixture
def not_clip():
    ENCODERS.register_module(name="NotCLIP", module=NotCLIP)
    yield "NotCLIP"
    ENCODERS.module_dict.pop("NotCLIP")


def check(settings: Settings, folder: Path) -> None:
    runner = StagedRunner(Config({**settings, "work_dir": str(folder)}))
    for entry in runner.entries:
        runner._build(entry)


def test_the_miniature_passes(settings: Settings, tmp_path: Path):
    check(settings, tmp_path)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"type": "lora", "rank": 8}, r"stages\.merge\.model\.student\.rank is unknown"),
        ({"trainable": {"type": "lora", "ranks": 8}}, r"student\.ranks is unknown"),
        ({"trainable": "all"}, "'all', but it must be 'full', 'lora'"),
    ],
)
def test_a_student_that_cannot_be(settings: Settings, tmp_path: Path, student: Any, words: str):
    settings["merging"]["model"]["student"] = student
    with pytest.raises(ConfigError, match=words):
        check(settings, tmp_path)


@pytest.mark.parametrize(
    "student", ["lora", {"type": "lora", "r": 4, "init_lora_weights": "olora"}]
)
def test_a_student_that_can_be(settings: Settings, tmp_path: Path, student: Any):
    settings["merging"]["model"]["student"] = student
    check(settings, tmp_path)


def test_an_encoder_that_no_export_holds(settings: Settings, tmp_path: Path, not_clip: str):
    settings["model"]["encoder"] = {"type": not_clip}
    with pytest.raises(ConfigError, match="NotCLIP cannot be; use TransformersCLIP or OpenCLIP"):
        check(settings, tmp_path)


@pytest.mark.parametrize("stage", ["detach", "merge"])
def test_a_source_that_no_earlier_stage_is(settings: Settings, tmp_path: Path, stage: str):
    entry = next(entry for entry in settings["stages"] if entry["name"] == stage)
    entry["source"] = "trasnfer"
    with pytest.raises(ConfigError, match=f"'{stage}' takes .* 'trasnfer'.*mean 'transfer'"):
        check(settings, tmp_path)
    (tmp_path / "trasnfer").mkdir()  # a stage of an earlier call, with another config
    (tmp_path / "trasnfer/model.pth").touch()
    check(settings, tmp_path)


def test_a_source_that_comes_later(settings: Settings, tmp_path: Path):
    settings["stages"].reverse()
    with pytest.raises(ConfigError, match="none of that name comes before it"):
        check(settings, tmp_path)
