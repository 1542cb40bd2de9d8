from itertools import pairwise

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from tove.config.validation import check_arguments
from tove.engine.optimizer import Schedule, optim_wrapper_cfg, param_scheduler_cfg
from tove.errors import ConfigError
from tove.registry import PARAM_SCHEDULERS


def half_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def test_only_what_requires_a_gradient_is_optimised_and_only_matrices_decay():
    model = half_frozen()
    wrapper = build_optim_wrapper(model, optim_wrapper_cfg(Schedule(steps=2, weight_decay=0.1)))
    matrices, vectors = wrapper.optimizer.param_groups
    assert [p is model[2].weight for p in matrices["params"]] == [True]
    assert {id(p) for p in vectors["params"]} == {
        id(model[1].weight),
        id(model[1].bias),
        id(model[2].bias),
    }
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)


def test_a_model_that_does_not_train_is_refused():
    model = half_frozen().requires_grad_(False)
    with pytest.raises(ConfigError, match=r"nothing to train; set schedule\.steps=0"):
        build_optim_wrapper(model, optim_wrapper_cfg(Schedule(steps=2)))


def rates(schedule: Schedule) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=schedule.lr)
    schedulers = [
        PARAM_SCHEDULERS.build(cfg, default_args={"optimizer": optimizer})
        for cfg in param_scheduler_cfg(schedule)
    ]
    seen = []
    for _ in range(schedule.steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return seen


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
def test_the_rate_warms_up_to_its_peak_then_falls(warmup: int):
    seen = rates(Schedule(steps=40, lr=0.5, warmup=warmup))
    rising = [0.5 * (step + 1) / (warmup + 1) for step in range(warmup)]
    assert seen[:warmup] == pytest.approx(rising)
    assert seen[warmup] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(seen[warmup:]))
    assert 0 < seen[-1] < 0.01


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 1e5),
        ("steps", -1),
        ("steps", True),
        ("warmup", 2.5),
        ("checkpoint_interval", 0),
        ("log_interval", 0),
        ("lr", "abc"),
        ("lr", float("nan")),
        ("weight_decay", -0.1),
        ("clip", 0),
        ("betas", 0.9),
        ("betas", (0.9, 1.0)),
        ("amp_dtype", "half"),
    ],
)
def test_a_wrong_number_is_told_before_it_costs_a_training(setting: str, value: object):
    with pytest.raises(ConfigError, match=rf"^schedule\.{setting} is .*, but it must be "):
        check_arguments(Schedule, {"steps": 40, setting: value}, "schedule")


def test_mixed_precision_has_the_schedule_s_dtype():
    schedule = Schedule(steps=4, amp_dtype="bfloat16")
    assert optim_wrapper_cfg(schedule, amp=True)["dtype"] == "bfloat16"
    assert "dtype" not in optim_wrapper_cfg(schedule)


@pytest.mark.parametrize(("amp", "kind"), [(False, "OptimWrapper"), (True, "AmpOptimWrapper")])
def test_precision_is_mixed_only_where_it_is_asked_for(amp: bool, kind: str):
    assert optim_wrapper_cfg(Schedule(steps=4), amp=amp)["type"] == f"Deferred{kind}"


def test_what_a_schedule_says_reaches_the_optimiser():
    schedule = Schedule(steps=2, lr=0.01, betas=(0.8, 0.95), weight_decay=0.3, clip=0.25)
    wrapper = build_optim_wrapper(half_frozen(), optim_wrapper_cfg(schedule))
    matrices, _ = wrapper.optimizer.param_groups
    told = {name: matrices[name] for name in ("lr", "betas", "weight_decay")}
    assert told == {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}
    assert wrapper.clip_grad_kwargs == {"max_norm": 0.25}
