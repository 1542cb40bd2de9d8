"""Steps that are measured by part on the device: events tell the times, none is waited for."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from tove.engine.optimizer import Schedule, optim_wrapper_cfg
from tove.engine.part_times import FILE, PartTimesHook

pytestmark = pytest.mark.gpu


def a_runner(model: Any, folder: Path) -> Any:
    """What of mmengine's Runner the hook looks at."""
    waited = SimpleNamespace(get_scalar=lambda name: SimpleNamespace(current=lambda: 0.002))
    visualizer = SimpleNamespace(add_scalar=lambda name, value, step: None)
    told = dict(logger=logging.getLogger("parts"), visualizer=visualizer, message_hub=waited)
    return SimpleNamespace(iter=0, model=model, work_dir=str(folder), **told)


def test_no_step_is_waited_for(
    make_method: Callable,
    language: Any,
    batch: dict[str, Any],
    device: torch.device,
    never_waits: Callable,
    tmp_path: Path,
):
    model = make_method("ToVE", language).to(device).train()
    schedule = Schedule(steps=10, lr=1e-2, amp_dtype="bfloat16")
    wrapper = build_optim_wrapper(model, optim_wrapper_cfg(schedule, amp=True))
    model.train_step(batch, optim_wrapper=wrapper)  # the first one may set things up
    hook, runner = PartTimesHook(interval=2, peak_tflops=1.0), a_runner(model, tmp_path)
    hook.before_train(runner)
    with never_waits():
        for runner.iter in range(6):
            hook.before_train_iter(runner, runner.iter, batch)
            model.train_step(batch, optim_wrapper=wrapper)
            hook.after_train_iter(runner, runner.iter, batch)
    hook.after_train(runner)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line["iter"] for line in lines] == [4, 6]  # the second step counts operations
    for line in lines:
        assert 0 < sum(line["parts"].values()) < line["step_ms"]
        assert line["parts"]["encoder"] > 0
        assert line["data_ms"] == pytest.approx(2.0)
        assert 0 < line["mfu"]
        assert line["peak_memory_mb"] > 0
