"""What a later stage could not do is said before the first one trains."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from torch import nn

from tove.engine.pipeline import StagedRunner
from tove.errors import ConfigError
from tove.registry import ENCODERS

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


def test_a_training_goes_on_from_the_merge_and_not_from_its_export(
    settings: Settings, tmp_path: Path
):
    tune = dict(type="TrainStage", name="tune", model=dict(type="PlainCLIP"))
    stages = settings["stages"]
    check({**settings, "stages": [*stages, {**tune, "source": "merge"}]}, tmp_path)
    with pytest.raises(ConfigError, match=r"trains none; set its source to 'merge'"):
        check({**settings, "stages": [*stages, {**tune, "source": "merged"}]}, tmp_path)


def test_an_encoder_that_no_export_holds(settings: Settings, tmp_path: Path, not_clip: str):
    settings["model"]["encoder"] = {"type": not_clip}
    with pytest.raises(ConfigError, match="NotCLIP cannot be; use TransformersCLIP, OpenCLIP or"):
        check(settings, tmp_path)


def test_an_export_s_folder_that_holds_something_else(settings: Settings, tmp_path: Path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export/thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"export holds files that are not an earlier export"):
        check(settings, tmp_path)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("export", "the folder of the export of 'again'"),
        ("detach", "the folder of a stage"),
        ("../out", "outside the run's work folder"),
    ],
)
def test_an_export_s_folder_is_its_own(settings: Settings, tmp_path: Path, folder: str, words: str):
    again = dict(type="ExportStage", name="again", source="merge", folder=folder)
    settings["stages"].append(again)
    with pytest.raises(ConfigError, match=words):
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
    told = "none of that name comes before it, and .*/model.pth is not there.* same --work-dir"
    with pytest.raises(ConfigError, match=told):
        check(settings, tmp_path)


def stage_of(settings: Settings, name: str) -> dict[str, Any]:
    return next(entry for entry in settings["stages"] if entry["name"] == name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("train_dataloader"), "'plain_clip' needs the setting `train_dataloader`"),
        (lambda s: s.pop("test_evaluator"), "'plain_clip' needs the setting `test_evaluator`"),
        (lambda s: s.update(test_evaluator=[]), "'plain_clip' needs .* `test_evaluator`"),
        (
            lambda s: stage_of(s, "transfer").update(reference="base_line"),
            r"stages\.transfer\.reference is 'base_line', .* mean 'baseline'",
        ),
        (
            lambda s: stage_of(s, "merged").update(reference="plain"),
            r"stages\.merged\.reference is 'plain', .* mean 'plain_clip'",
        ),
        (lambda s: s.pop("val_dataloader"), "'detach' needs the setting `val_dataloader`"),
        (lambda s: s.pop("unlabelled_dataloader"), "'merge' needs .*`unlabelled_dataloader`"),
        (
            lambda s: stage_of(s, "transfer").update(model=dict(type="MatchedBaseline")),
            "'transfer' trains a MatchedBaseline with 0 experts",
        ),
        (
            lambda s: stage_of(s, "transfer").update(model=dict(type="ConcatTokens")),
            "'transfer' trains a ConcatTokens with 2 experts",
        ),
        (lambda s: stage_of(s, "detach").update(rule="gates"), "'gates', .* mean 'gate'"),
        (lambda s: s["model"].update(detached=["depth", "dino"]), "with 0 experts"),
        (lambda s: stage_of(s, "detach").update(budget=[1, 2]), "with 2 experts, .* leaves 0 to 1"),
        (lambda s: stage_of(s, "detach").update(budget=-1), "with -1 experts"),
        (
            lambda s: s["merging"]["model"].update(lm_weight=1.0),
            r"lm_weight is 1\.0, but UnlabelledImages gives images without text",
        ),
        (
            lambda s: (
                s["stages"].append(dict(type="ReportStage", name="report")),
                s.update(report=dict(foo=3)),
            ),
            r"report\.foo is unknown",
        ),
        (
            lambda s: (
                s["stages"].append(dict(type="ReportStage", name="report")),
                s.update(report=dict(num_maps="x")),
            ),
            r"report\.num_maps is 'x', but it must be a whole number",
        ),
    ],
)
def test_what_a_later_stage_would_stumble_over(
    settings: Settings, tmp_path: Path, change: Any, words: str
):
    change(settings)
    with pytest.raises(ConfigError, match=words):
        check(settings, tmp_path)


def test_a_run_that_only_evaluates_needs_no_training_data(settings: Settings, tmp_path: Path):
    del settings["train_dataloader"]
    settings["schedule"].update(steps=0, warmup=0)
    settings["stages"] = settings["stages"][:1]
    check(settings, tmp_path)


def test_a_row_s_role_is_that_of_its_model_and_its_name_the_config_s(
    settings: Settings, tmp_path: Path
):
    runner = StagedRunner(Config({**settings, "work_dir": str(tmp_path)}))
    rows = {entry["name"]: runner._build(entry).row for entry in runner.entries[:3]}
    assert rows == {"plain_clip": "plain_clip", "baseline": "baseline", "transfer": "tove"}
    kinds = {"PlainCLIP": "plain", "MatchedBaseline": "baseline", "ToVE": "method"}
    for kind, role in kinds.items():
        assert runner.context.kind_of({"type": kind}).role == role


def test_a_loader_that_a_stage_names_must_be_there(settings: Settings, tmp_path: Path):
    settings["stages"][2]["data"] = {"train": "captions_dataloader"}
    with pytest.raises(ConfigError, match="'transfer' needs the setting `captions_dataloader`"):
        check(settings, tmp_path)
    settings["stages"][2]["data"] = {"training": "train_dataloader"}
    with pytest.raises(ConfigError, match=r"data has 'training'"):
        check(settings, tmp_path)
