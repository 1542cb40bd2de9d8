"""Settings of data sets, metrics and loaders, held to their ranges before anything is built."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler

from tove.config.data_sets import check_evaluation, data_sets
from tove.config.keys import check_settings
from tove.config.validation import check_model
from tove.data import CocoCaptions, Questions, UnlabelledImages, VSRStatements
from tove.errors import ConfigError
from tove.evaluation import CaptionScore, StatementAccuracy

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("kind", [CocoCaptions, VSRStatements, Questions, UnlabelledImages])
@pytest.mark.parametrize(
    "setting",
    [
        dict(max_samples=-1),
        dict(max_samples="all"),
        dict(corrupt_limit=-1),
        dict(keep_decoded_gb=float("nan")),
        dict(image_size=0),
        dict(view="stretch"),
        dict(ann_file=3),
        dict(test_mode="yes"),
    ],
    ids=str,
)
def test_what_is_behind_a_data_sets_options_is_held_to_its_range(kind, setting):
    (key,) = setting
    with pytest.raises(ConfigError, match=rf"^test_dataloader\.dataset\.{key} is "):
        check_model(kind, setting, "test_dataloader.dataset")


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (Questions, dict(max_answers=0)),
        (Questions, dict(answers=["a", 3])),
        (VSRStatements, dict(candidates=["no"])),
        (VSRStatements, dict(candidates=["no", "yes", "maybe"])),
        (CocoCaptions, dict(prompt=None)),
        (CaptionScore, dict(num_resamples=0)),
        (CaptionScore, dict(seed=-1)),
        (StatementAccuracy, dict(per_relation="yes")),
        (StatementAccuracy, dict(collect_device="tpu")),
    ],
    ids=str,
)
def test_own_settings_are_held_to_their_range(kind, setting):
    with pytest.raises(ConfigError, match=rf"^part\.{next(iter(setting))} is "):
        check_model(kind, setting, "part")


@pytest.mark.parametrize("kind", ["InfiniteSampler", InfiniteSampler])
@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader"])
def test_an_evaluation_without_end_is_refused(loader, kind):
    with pytest.raises(ConfigError, match=f"{loader}.sampler is InfiniteSampler, which never"):
        check_evaluation(Config({loader: dict(sampler=dict(type=kind))}))


def test_a_loader_that_a_stage_evaluates_on_is_held_to_the_same():
    settings = dict(
        vqa_dataloader=dict(sampler=dict(type="InfiniteSampler")),
        stages=[dict(name="a", data=dict(train="vqa_dataloader"))],
    )
    check_evaluation(Config(settings))
    settings["stages"][0]["data"] = dict(test="vqa_dataloader")
    with pytest.raises(ConfigError, match=r"vqa_dataloader\.sampler is InfiniteSampler"):
        check_evaluation(Config(settings))


def test_samples_that_would_be_dropped_from_an_evaluation_are_refused():
    loaders = dict(train_dataloader=dict(drop_last=True), test_dataloader=dict(drop_last=False))
    check_evaluation(Config(loaders))
    with pytest.raises(ConfigError, match=r"val_dataloader\.drop_last would leave the last"):
        check_evaluation(Config(dict(val_dataloader=dict(drop_last=True))))


def test_a_training_may_have_no_end():
    infinite, finite = dict(type="InfiniteSampler"), dict(type=DefaultSampler)
    loaders = dict(train_dataloader=infinite, test_dataloader=finite)
    check_evaluation(Config({name: dict(sampler=sampler) for name, sampler in loaders.items()}))


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        (dict(model=None), "a dict"),
        (dict(schedule=[1]), "a dict"),
        (dict(train_dataloader="coco"), "a dict"),
        (dict(test_evaluator="vsr"), "a dict or a list, each entry a dict"),
        (dict(stages="transfer"), "a list, each entry a dict"),
        (dict(stages=["transfer"]), "a list, each entry a dict"),
        (dict(data_root=2017), "a text or None"),
        (dict(seed=-1), "a whole number (0 or more and 4,294,967,295 or less)"),
        (dict(image_size=float("nan")), "a whole number (1 or more and 8,192 or less)"),
    ],
    ids=str,
)
def test_a_section_of_another_kind_is_told(setting, instead):
    (key,) = setting
    with pytest.raises(ConfigError, match=rf"^{key} is .*, but it must be {re.escape(instead)}\."):
        check_settings(setting)


def test_the_demo_s_settings_are_of_the_right_kinds():
    check_settings(Config.fromfile(ROOT / "configs/tiny/tove-tiny_scenes.py"))


@pytest.mark.parametrize(
    "loader",
    [
        None,
        7,
        dict(dataset=None),
        dict(dataset=[3]),
        dict(dataset=dict(datasets=None)),
        dict(dataset=dict(datasets=[None])),
        dict(dataset=dict(dataset="coco")),
        dict(batch_size=3),
    ],
    ids=str,
)
def test_a_loader_that_holds_no_data_set_is_a_sentence(loader):
    with pytest.raises(ConfigError, match="train_dataloader"):
        [*data_sets(Config(dict(train_dataloader=loader)))]
