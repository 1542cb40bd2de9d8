"""mmengine's own words: what a config says in them is done, and what nothing reads is refused."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from tove.config.keys import SETTINGS, check_names
from tove.engine.averaging import trained_view
from tove.engine.checkpoint import read_checkpoint
from tove.engine.loop import StageRunner, build_stage_runner
from tove.engine.optimizer import Schedule, optim_wrapper_cfg, param_scheduler_cfg
from tove.engine.run_plan import RunPlan
from tove.engine.stages.context import StageContext
from tove.errors import ConfigError

STEPS = 4


class Fit(BaseModel):
    """Two trained weights and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        return {"loss_fit": self.last(self.first(self.frozen(inputs))).square().mean()}


class Seen(Hook):
    """A hook of a user's own."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        trained = {n: p for n, p in runner.model.named_parameters() if p.requires_grad}
        self.steps.append({name: p.detach().clone() for name, p in trained.items()})


def train(
    folder: Path, config: dict[str, Any] | None = None, **settings: Any
) -> tuple[StageRunner, list[dict[str, torch.Tensor]]]:
    seen = Seen()
    settings.setdefault("visualizer", dict(vis_backends=[]))
    plan = RunPlan(
        folder=folder,
        model=Fit(),
        seed=0,
        meta=dict,
        schedule=Schedule(steps=STEPS, lr=0.1, weight_decay=0.0, clip=None, log_interval=2),
        train_dataloader=DataLoader([dict(inputs=torch.ones(4))] * 12, batch_size=2),
        settings=settings | {"custom_hooks": [*settings.get("custom_hooks", []), seen]},
        config=config or {},
    )
    runner = build_stage_runner(plan)
    runner.train()
    return runner, seen.steps


def test_another_optimiser_takes_the_schedule_s_rate_and_nothing_else(tmp_path: Path):
    runner, _ = train(tmp_path, optim_wrapper=dict(optimizer=dict(type="SGD", momentum=0.9)))
    group = runner.optim_wrapper.optimizer.param_groups[0]
    assert (group["initial_lr"], group["momentum"]) == (0.1, 0.9)
    assert "betas" not in group
    schedule = Schedule(steps=9, lr=0.5)
    own = dict(optimizer=dict(type="SGD", lr=123.0))
    assert optim_wrapper_cfg(schedule, own=own)["optimizer"]["lr"] == 123.0
    adam = optim_wrapper_cfg(schedule, own=dict(optimizer=dict(weight_decay=0.3)))["optimizer"]
    assert (adam["type"], adam["lr"], adam["weight_decay"]) == ("AdamW", 0.5, 0.3)


def test_accumulation_steps_once_for_several_batches(tmp_path: Path):
    _, steps = train(tmp_path, optim_wrapper=dict(accumulative_counts=2))
    moved = [
        not torch.equal(before["last.weight"], after["last.weight"])
        for before, after in zip([Fit().state_dict(), *steps], steps, strict=False)
    ]
    assert moved == [False, True, False, True]


def test_multipliers_by_parameter_count_and_frozen_ones_stay_out(tmp_path: Path):
    paramwise = dict(custom_keys={"first": dict(lr_mult=0.0)})
    runner, steps = train(tmp_path, optim_wrapper=dict(paramwise_cfg=paramwise))
    assert torch.equal(steps[-1]["first.weight"], Fit().first.weight)
    assert not torch.equal(steps[-1]["last.weight"], Fit().last.weight)
    groups = runner.optim_wrapper.optimizer.param_groups
    assert len([p for group in groups for p in group["params"]]) == 4


def test_the_average_is_of_what_trains_and_is_what_is_left(tmp_path: Path):
    hook = dict(type="EMAHook", momentum=0.25)
    runner, steps = train(tmp_path, custom_hooks=[hook])
    (average,) = [h for h in runner.hooks if type(h).__name__ == "TrainedEMAHook"]
    kept = {name for name, _ in average.ema_model.module.named_parameters()}
    assert kept == {"first.weight", "first.bias", "last.weight", "last.bias"}
    expected = steps[0]["last.weight"]  # the first update takes the weights as they are
    for step in steps[1:]:
        expected = torch.lerp(expected, step["last.weight"], 0.25)
    torch.testing.assert_close(runner.model.last.weight.data, expected)
    saved = read_checkpoint(tmp_path / f"iter_{STEPS}.pth")
    torch.testing.assert_close(saved["state_dict"]["last.weight"], expected)
    torch.testing.assert_close(
        saved["ema_state_dict"]["module.last.weight"], steps[-1]["last.weight"]
    )


def test_a_view_of_what_trains_holds_the_model_s_own_tensors():
    model = Fit()
    view = dict(trained_view(model).named_parameters())
    assert view.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(parameter is model.get_parameter(name) for name, parameter in view.items())


def test_a_schedule_of_one_s_own_takes_the_place_of_ours(tmp_path: Path):
    own = [dict(type="ConstantLR", factor=0.5, by_epoch=False, begin=0, end=STEPS)]
    runner, _ = train(tmp_path, param_scheduler=own)
    rates = runner.optim_wrapper.get_lr()["lr"]
    assert rates[0] == pytest.approx(0.1)  # back at its whole at the end
    assert len(runner.param_schedulers) == 1
    assert len(param_scheduler_cfg(Schedule(steps=9, warmup=2))) == 2


def test_bfloat16_trains_on_a_cpu(tmp_path: Path):
    own = dict(type="AmpOptimWrapper", dtype="bfloat16")
    runner, steps = train(tmp_path, optim_wrapper=own)
    assert runner.optim_wrapper.cast_dtype is torch.bfloat16
    assert steps[-1]["last.weight"].dtype is torch.float32
    assert not torch.equal(steps[-1]["last.weight"], Fit().last.weight)


def test_a_tracker_is_given_the_config_and_what_the_stage_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mlflow = MagicMock()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    backends = [dict(type="LocalVisBackend"), dict(type="MLflowVisBackend")]
    train(tmp_path / "transfer", dict(seed=3), visualizer=dict(vis_backends=backends))
    assert mlflow.log_params.call_args.args[0]["seed"] == 3
    kept = {Path(call.args[0]).name for call in mlflow.log_artifact.call_args_list}
    assert "scalars.json" in kept
    mlflow.end_run.assert_called_once()
    saved = read_checkpoint(tmp_path / f"transfer/iter_{STEPS}.pth")
    assert "seed = 3" in saved["meta"]["cfg"]


def context(**settings: Any) -> StageContext:
    return StageContext(Config(dict(schedule=dict(steps=9), seed=0, **settings)), Path())


def test_the_steps_of_a_train_cfg_count_and_epochs_are_refused():
    def schedule(own=None, **train_cfg):
        runner = {"train_cfg": own} if own else {}
        return context(train_cfg=train_cfg).schedule("transfer", {}, runner)

    assert schedule(max_iters=7, val_interval=3).steps == 7
    assert schedule(max_iters=7, val_interval=3).val_interval == 3
    assert schedule(dict(max_iters=5), max_iters=7).steps == 5
    with pytest.raises(ConfigError, match="counts epochs"):
        schedule(by_epoch=True, max_epochs=3)


def test_a_warm_up_that_does_not_end_names_stage_and_setting():
    told = r"'merge' has 10 steps .* for 10 of them; set merging\.schedule\.warmup below"
    with pytest.raises(ConfigError, match=told):
        context().schedule("merge", dict(steps=10, warmup=10), {}, "merging.schedule")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("optim_wraper", "did you mean `optim_wrapper`"),
        ("custom_hook", "did you mean `custom_hooks`"),
        ("shedule", "did you mean `schedule`"),
        ("vis_backends", r"put them into visualizer=dict"),
        ("resume", "pass --resume on the command line"),
        ("sync_bn", "leave it out"),
    ],
)
def test_a_name_that_nothing_reads_is_a_sentence(name: str, words: str):
    with pytest.raises(ConfigError, match=words):
        check_names([name])


def test_settings_and_variables_of_one_s_own_pass():
    check_names([*SETTINGS, "captions_dataloader", "images", "workers", "frozen", "statements"])
