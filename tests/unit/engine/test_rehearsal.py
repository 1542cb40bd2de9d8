"""What mmengine would stumble over in a later stage is a sentence before the first one trains."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tove.engine.optimizer import Schedule
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.engine.rehearsal import rehearse_training
from tove.engine.run_plan import RunPlan
from tove.engine.score_names import score_names
from tove.errors import ConfigError
from tove.registry import METRICS, SCOPE

Settings = dict[str, Any]


class Statements(Dataset):
    """Two statements of each of two relations."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.get_data_info(index)

    def get_data_info(self, index: int) -> dict[str, Any]:
        relation = ("left of", "behind")[index % 2]
        asked = dict(prompt=f"is it {relation}?", candidates=["no", "yes"], label=index // 2)
        return dict(image_id=str(index), task="statement", relation=relation, **asked)


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope(SCOPE)


def rehearse(folder: Path, val: bool = True, **settings: Any) -> None:
    """Rehearse a training of four steps with settings in mmengine's words."""
    loader = DataLoader(Statements(), batch_size=2)
    plan = RunPlan(
        folder=folder / "tune",
        model=nn.Linear(4, 1),
        seed=0,
        meta=dict,
        schedule=Schedule(steps=4, lr=0.1, val_interval=2),
        train_dataloader=loader,
        val_dataloader=loader if val else None,
        evaluator=[dict(type="StatementAccuracy")],
        settings=settings,
    )
    rehearse_training(plan)
    assert not [*folder.rglob("*")]


def optimizer(**options: Any) -> Settings:
    return dict(optim_wrapper=dict(optimizer=options))


def checkpoint(**options: Any) -> Settings:
    return dict(default_hooks=dict(checkpoint=options))


MISTAKES: dict[str, tuple[Settings, str]] = {
    "an optimiser's argument": (
        optimizer(type="SGD", momentun=0.9),
        r"'tune': optim_wrapper\.optimizer\.momentun is unknown\. Did you mean 'momentum'",
    ),
    "one of the optimiser that a schedule stands for": (
        optimizer(wieght_decay=0.1),
        r"optim_wrapper\.optimizer\.wieght_decay is unknown",
    ),
    "an optimiser's value": (
        optimizer(type="SGD", momentum=-1.0),
        r"optim_wrapper cannot be built \(ValueError: Invalid momentum value: -1\.0\)",
    ),
    "the wrapper's argument": (
        dict(optim_wrapper=dict(acumulative_counts=2)),
        r"optim_wrapper\.acumulative_counts is unknown\. .*'accumulative_counts'",
    ),
    "clip_grad's": (
        dict(optim_wrapper=dict(clip_grad=dict(max_nrom=1.0))),
        r"optim_wrapper\.clip_grad\.max_nrom is unknown\. Did you mean 'max_norm'",
    ),
    "a scheduler's argument": (
        dict(param_scheduler=[dict(type="MultiStepLR", milestone=[2])]),
        r"param_scheduler\.0\.milestone is unknown\. Did you mean 'milestones'",
    ),
    "a scheduler's value": (
        dict(param_scheduler=dict(type="LinearLR", start_factor=3.0)),
        r"param_scheduler\.0 cannot be built \(ValueError: .*between 0 and 1",
    ),
    "a hook's argument": (
        dict(custom_hooks=[dict(type="EarlyStoppingHook", monitor="accuracy", patiance=1)]),
        r"custom_hooks\.0\.patiance is unknown\. Did you mean 'patience'",
    ),
    "an average's argument": (
        dict(custom_hooks=[dict(type="EMAHook", momentun=0.1)]),
        r"custom_hooks\.0 cannot be built \(TypeError: .*'momentun'",
    ),
    "an average's value": (
        dict(custom_hooks=[dict(type="EMAHook", momentum=2.0)]),
        r"custom_hooks\.0 cannot be built",
    ),
    "a hook's priority": (
        dict(custom_hooks=[dict(type="EMAHook", priority="HIHG")]),
        r"custom_hooks\.0\.priority cannot be built \(.*HIHG",
    ),
    "a hook that is none": (
        dict(custom_hooks=["{type:EMAHook"]),
        r"custom_hooks\.0 is '\{type:EMAHook', but it must be a dict",
    ),
    "a default hook's argument": (
        dict(default_hooks=dict(logger=dict(intervall=1))),
        r"default_hooks\.logger\.intervall is unknown\. .*'interval'",
    ),
    "a visualizer's backend": (
        dict(visualizer=dict(vis_backends=[dict(type="WandbVisBackend", proj="x")])),
        r"visualizer cannot be built \(TypeError: .*'proj'",
    ),
    "the log processor's": (
        dict(log_processor=dict(window=3)),
        r"log_processor\.window is unknown\. Did you mean 'window_size'",
    ),
    "the loop's": (
        dict(train_cfg=dict(max_iter=3)),
        r"train_cfg\.max_iter is unknown\. Did you mean 'max_iters'",
    ),
    "those of what wraps several processes": (
        dict(model_wrapper_cfg=dict(type="FullyShard", min_parameter=3)),
        r"model_wrapper_cfg\.min_parameter is unknown\. Did you mean 'min_parameters'",
    ),
    "the score of the best": (
        checkpoint(save_best="vsr/acuracy", rule="greater"),
        r"checkpoint\.save_best is 'vsr/acuracy', .*mean 'vsr/accuracy",
    ),
    "one of several": (
        checkpoint(save_best=["vsr/accuracy", "vsr/yes"], rule="greater"),
        r"checkpoint\.save_best is 'vsr/yes', which",
    ),
    "the best without a rule": (
        checkpoint(save_best="vsr/yes_rate"),
        r"default_hooks\.checkpoint cannot be built \(ValueError: Cannot infer the rule",
    ),
    "the score that stops": (
        dict(custom_hooks=[dict(type="EarlyStoppingHook", monitor="accuracy")]),
        r"custom_hooks\.0\.monitor is 'accuracy', which is not measured in validation",
    ),
    "the score of a plateau": (
        dict(param_scheduler=[dict(type="ReduceOnPlateauLR", monitor="loss")]),
        r"param_scheduler\.0\.monitor is 'loss', which is not measured in validation",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_a_sentence(tmp_path: Path, case: str):
    settings, words = MISTAKES[case]
    with pytest.raises(ConfigError, match=words):
        rehearse(tmp_path, **settings)


def test_what_can_be_is_built_without_a_trace(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rehearse(
            tmp_path,
            default_hooks=dict(checkpoint=dict(save_best="auto"), timer=None),
            custom_hooks=[
                dict(type="EMAHook", momentum=0.1, priority="LOW"),
                dict(type="EarlyStoppingHook", monitor="vsr/relation/behind", rule="greater"),
            ],
            param_scheduler=[dict(type="ReduceOnPlateauLR", monitor="vsr/accuracy")],
            optim_wrapper=dict(
                optimizer=dict(type="SGD", weight_decay=0.1),
                paramwise_cfg=dict(bias_decay_mult=0.0),
            ),
            visualizer=dict(vis_backends=[dict(type="WandbVisBackend", init_kwargs={})]),
        )


def test_the_best_of_a_stage_without_validation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []
    monkeypatch.setattr("tove.engine.rehearsal.print_log", lambda text, **how: told.append(text))
    rehearse(tmp_path, val=False, **checkpoint(save_best="vsr/accuracy"))
    assert len(told) == 1
    assert "it has nothing to go by; set schedule.val_interval" in told[0]


def run_config(settings: Settings, folder: Path) -> Config:
    cfg = Config({**settings, "work_dir": str(folder)})
    check_config(cfg)
    return cfg


def stage_rehearsal(settings: Settings, folder: Path, name: str) -> None:
    runner = StagedRunner(run_config(settings, folder))
    runner._build(next(e for e in runner.entries if e["name"] == name)).rehearse(runner.context)


@pytest.mark.parametrize("stage", ["transfer", "merge"])
def test_a_stage_that_trains_rehearses_it(settings: Settings, tmp_path: Path, stage: str):
    entry = next(entry for entry in settings["stages"] if entry["name"] == stage)
    entry["runner"] = dict(default_hooks=dict(logger=dict(intervall=1)))
    with pytest.raises(ConfigError, match=f"'{stage}': default_hooks.logger.intervall is unknown"):
        stage_rehearsal(settings, tmp_path / "work", stage)


def test_the_arguments_of_a_loader(settings: Settings, tmp_path: Path):
    settings["train_dataloader"].update(prefetch_factor=2, num_workers=0)
    with pytest.raises(ConfigError, match=r"train_dataloader cannot be built .*prefetch_factor"):
        stage_rehearsal(settings, tmp_path / "work", "plain_clip")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("vsr/acuracy", "Did you mean 'vsr/accuracy"),
        ("vsr/relation/lefft", "Did you mean 'vsr/relation/left'"),
        ("caption/CIDEr", "Known names: vsr/accuracy, "),  # measured on the test split alone
        ("vsr/relation/left", None),
    ],
)
def test_the_metric_of_a_detachment(
    settings: Settings, tmp_path: Path, metric: str, words: str | None
):
    next(s for s in settings["stages"] if s["name"] == "detach")["metric"] = metric
    if words is None:
        stage_rehearsal(settings, tmp_path / "work", "detach")
        return
    told = f"stages.detach.metric is '{metric}', which is not measured in validation. {words}"
    with pytest.raises(ConfigError, match=told):
        stage_rehearsal(settings, tmp_path / "work", "detach")


def test_no_made_up_answers_are_handed_in(tmp_path: Path):
    submission = tmp_path / "answers.json"
    scorer = dict(type="StatementAccuracy", submission=str(submission))
    assert "vsr/accuracy" in score_names(Statements(), [scorer])
    assert not submission.exists()


class WantsMore(BaseMetric):
    """A metric of research code."""

    def process(self, data_batch: object, data_samples: Any) -> None:
        self.results += [sample["attention"] for sample in data_samples]

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"entropy": float(torch.tensor(results).mean())}


def test_a_metric_that_asks_for_more_than_answers_is_left_alone():
    METRICS.register_module(module=WantsMore)
    try:
        assert score_names(Statements(), [dict(type="WantsMore")]) is None
    finally:
        METRICS.module_dict.pop("WantsMore")


@pytest.mark.parametrize(("metric", "told"), [("vsr/acuracy", True), ("vsr/accuracy", False)])
def test_a_column_that_nothing_measures(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture, metric: str, told: bool
):
    runner = StagedRunner(run_config({**settings, "table_metrics": [metric]}, tmp_path))
    runner.context.evaluation_loader("test_dataloader")
    runner._look_at_table()
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "names 'vsr/acuracy', which is not measured. Did you mean 'vsr/accuracy" in said
    ) is told
