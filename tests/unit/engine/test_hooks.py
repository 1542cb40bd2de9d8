import gc
import json
import os
import random
import signal
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tove.engine.hooks import (
    AtomicCheckpointHook,
    LossCurveHook,
    ProvenanceHook,
    ReseedHook,
)
from tove.engine.preemption import PreemptionHook
from tove.errors import CheckpointError, Preempted, TrainingError


def draw() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_a_step_draws_the_same_whatever_came_before():
    hook = ReseedHook(seed=5)
    runner = SimpleNamespace(iter=7)
    hook.before_train_iter(runner, 7)
    first = draw()
    draw()
    hook.before_train_iter(runner, 7)
    assert draw() == first
    hook.before_train_iter(SimpleNamespace(iter=8), 8)
    assert draw() != first


def test_ranks_draw_apart_except_where_they_have_to_agree(monkeypatch: pytest.MonkeyPatch):
    own, shared = [], []
    for rank in range(3):
        monkeypatch.setattr("tove.engine.seeding.get_rank", lambda rank=rank: rank)
        hook, runner = ReseedHook(seed=5), SimpleNamespace(iter=7, model=torch.nn.Identity())
        hook.before_train(runner)
        hook.before_train_iter(runner, 7)
        own.append(draw())
        shared.append(torch.rand(1, generator=runner.model.shared_generator).item())
    assert len({numbers for rank in own for numbers in rank}) == 9
    assert len(set(shared)) == 1


def losses(hook: LossCurveHook, folder: Path, values: list[float]) -> None:
    hook.before_train(fake_runner(folder, 0))
    for step, value in enumerate(values):
        outputs = dict(loss=torch.tensor(value), loss_lm=torch.tensor(value), gate=torch.tensor(1))
        hook.after_train_iter(fake_runner(folder, step), step, outputs=outputs)


def test_a_training_that_diverged_stops_with_a_sentence(tmp_path: Path):
    nan = float("nan")
    with pytest.raises(TrainingError, match=r"has diverged: loss is nan at step 6\. Lower"):
        losses(LossCurveHook(interval=3), tmp_path, [1.0, 1.0, 1.0, nan, nan, nan, 1.0])
    assert len((tmp_path / "loss.jsonl").read_text().splitlines()) == 6
    losses(LossCurveHook(interval=3), tmp_path, [1.0, nan, 1.0, 1.0, 1.0, nan, 1.0])


def fake_runner(folder: Path, iteration: int) -> SimpleNamespace:
    return SimpleNamespace(
        work_dir=str(folder),
        iter=iteration,
        world_size=1,
        max_iters=7,
        optim_wrapper=SimpleNamespace(get_lr=lambda: {"lr": [0.1]}),
        message_hub=SimpleNamespace(update_scalar=lambda name, value: None),
    )


def write_curve(folder: Path, start: int, stop: int, interval: int = 1) -> None:
    hook = LossCurveHook(interval=interval)
    hook.before_train(fake_runner(folder, start))
    for step in range(start, stop):
        outputs = {"loss": torch.tensor(float(step)), "text": "no"}
        hook.after_train_iter(fake_runner(folder, step), step, outputs=outputs)


def test_a_resumed_curve_has_each_step_once(tmp_path: Path):
    write_curve(tmp_path, 0, 5)
    with (tmp_path / "loss.jsonl").open("a") as stream:
        stream.write('{"iter": 6, "lo')  # cut short by a crash
    write_curve(tmp_path, 3, 7)
    lines = [json.loads(line) for line in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert lines[-1] == {"iter": 7, "loss": 6.0, "lr": 0.1}


def test_a_curve_is_written_every_interval_and_at_the_end(tmp_path: Path):
    def iterations() -> list[int]:
        lines = (tmp_path / "loss.jsonl").read_text().splitlines()
        return [json.loads(line)["iter"] for line in lines]

    write_curve(tmp_path, 0, 5, interval=3)
    assert iterations() == [1, 2, 3]
    write_curve(tmp_path, 0, 7, interval=3)  # 7 is the last step
    assert iterations() == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_kept_until_it_is_written_holds_no_step_alive(tmp_path: Path):
    hook = LossCurveHook(interval=5)
    hook.before_train(fake_runner(tmp_path, 0))
    kept = []

    class Activation:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor.detach()  # attached it would hold itself
            kept.append(weakref.ref(self))

    for step in range(3):
        weight = torch.ones(4, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(Activation, lambda held: held.tensor):
            loss, metric = (weight * weight).sum(), weight.exp().mean()  # no one differentiates it
        loss.backward()
        hook.after_train_iter(fake_runner(tmp_path, step), step, outputs=dict(loss=loss, m=metric))
        del loss, metric
    gc.collect()
    assert kept
    assert not any(activation() for activation in kept)


def test_steps_may_have_other_terms(tmp_path: Path):
    hook = LossCurveHook(interval=2)
    hook.before_train(fake_runner(tmp_path, 0))
    for step, outputs in enumerate([dict(loss=1.0), dict(loss=torch.tensor(2.0), loss_kd=0.5)]):
        hook.after_train_iter(fake_runner(tmp_path, step), step, outputs=outputs)
    lines = [json.loads(line) for line in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert [line.get("loss_kd") for line in lines] == [None, 0.5]
    assert [line["loss"] for line in lines] == [1.0, 2.0]


def test_seeds_do_not_share_draws_shifted_by_a_step():
    def first_draw(seed: int, iteration: int) -> tuple:
        ReseedHook(seed).before_train_iter(SimpleNamespace(iter=iteration), iteration)
        return draw()

    assert first_draw(1, 0) != first_draw(0, 1)


def test_a_run_from_the_start_begins_a_new_curve(tmp_path: Path):
    write_curve(tmp_path, 0, 5)
    write_curve(tmp_path, 0, 2)
    assert len((tmp_path / "loss.jsonl").read_text().splitlines()) == 2


class SavingRunner(SimpleNamespace):
    def save_checkpoint(self, out_dir: str, name: str, **_: object) -> None:
        if self.full:
            raise CheckpointError("disk full")
        (Path(out_dir) / name).write_text("x")


def saving_runner(folder: Path) -> SavingRunner:
    hub = SimpleNamespace(update_info=lambda *_: None)
    return SavingRunner(work_dir=str(folder), full=False, message_hub=hub)


def test_old_checkpoints_go_only_after_the_new_one_is_whole(tmp_path: Path):
    hook, runner = AtomicCheckpointHook(interval=1, max_keep_ckpts=1), saving_runner(tmp_path)
    hook.before_train(runner)
    for step in (9, 10):
        hook._save_checkpoint_with_step(runner, step, {})
    assert [p.name for p in tmp_path.glob("iter_*.pth")] == ["iter_10.pth"]
    runner.full = True
    with pytest.raises(CheckpointError):
        hook._save_checkpoint_with_step(runner, 11, {})
    assert [p.name for p in tmp_path.glob("iter_*.pth")] == ["iter_10.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "iter_10.pth"


def test_a_resumed_checkpoint_is_held_against_the_experts_and_what_is_frozen():
    expert = dict(name="e", distribution="p", version="1", sha256="ab", options={})
    now = dict(experts=dict(a=expert), frozen=dict(encoder="1" * 64, language="2" * 64))
    hook, runner = ProvenanceHook(lambda: now), SimpleNamespace()
    hook.after_load_checkpoint(runner, dict(meta=dict(now)))
    hook.after_load_checkpoint(runner, dict(meta=dict(experts=dict(a=expert))))  # of before
    hook.after_load_checkpoint(runner, dict(meta={}))
    changed = [
        ("another language", now | dict(frozen=dict(encoder="1" * 64, language="3" * 64))),
        ("Slot 'a' does not hold", now | dict(experts=dict(a=expert | dict(sha256="cd")))),
    ]
    for words, meta in changed:
        with pytest.raises(CheckpointError, match=words):
            hook.after_load_checkpoint(runner, dict(meta=meta))


def test_a_signal_is_heard_at_the_end_of_the_step_and_left_alone_after_the_training(tmp_path: Path):
    before = signal.getsignal(signal.SIGUSR1)
    curve, saves = LossCurveHook(interval=50), AtomicCheckpointHook(interval=50)
    hook = PreemptionHook(curve)
    runner = saving_runner(tmp_path)
    runner.__dict__.update(fake_runner(tmp_path, 0).__dict__, hooks=[curve, saves, hook])
    runner.message_hub.update_info = lambda *_: None
    for each in runner.hooks:
        each.before_train(runner)

    def step(number: int) -> None:
        runner.iter = number
        for each in (curve, hook):
            each.after_train_iter(runner, number, outputs=dict(loss=torch.tensor(1.0)))

    step(0)
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(
        Preempted, match=r"SIGUSR1: .* ended after step 2 of 7 and is saved"
    ) as ended:
        step(1)
    assert ended.value.exit_status == 128 + signal.SIGUSR1
    assert (tmp_path / "last_checkpoint").read_text() == "iter_2.pth"
    assert len((tmp_path / "loss.jsonl").read_text().splitlines()) == 2
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_training_in_another_thread_than_the_main_one_hears_no_signal(tmp_path: Path):
    before, raised = signal.getsignal(signal.SIGUSR1), []

    def begin() -> None:
        try:
            PreemptionHook(LossCurveHook()).before_train(SimpleNamespace(world_size=1))
        except ValueError as error:  # of signal.signal, which only the main thread may call
            raised.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert not raised
    assert signal.getsignal(signal.SIGUSR1) is before
