"""Settings of data sets, metrics and loaders, held to their ranges before anything is built."""

import pytest
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler

from tove.config.data_sets import check_samplers
from tove.config.validation import check_model
from tove.data import CocoCaptions, Questions, UnlabelledImages, VSRStatements
from tove.errors import ConfigError
from tove.evaluation import CaptionScore, StatementAccuracy


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
    with pytest.raises(ConfigError, match=f"{loader}.sampler is an InfiniteSampler, which never"):
        check_samplers(Config({loader: dict(sampler=dict(type=kind))}))


def test_a_training_may_have_no_end():
    infinite, finite = dict(type="InfiniteSampler"), dict(type=DefaultSampler)
    loaders = dict(train_dataloader=infinite, test_dataloader=finite)
    check_samplers(Config({name: dict(sampler=sampler) for name, sampler in loaders.items()}))
