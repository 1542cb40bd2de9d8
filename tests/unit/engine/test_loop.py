"""A training that was interrupted goes on only in the way that it began."""

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from tove.engine.checkpoint import read_checkpoint
from tove.engine.loop import RunPlan, build_stage_runner
from tove.engine.optimizer import Schedule
from tove.engine.seeding import agreed_generator
from tove.errors import CheckpointError


class Fit(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        return {"loss_fit": self.layer(inputs).square().mean()}


def train(folder: Path, steps: int, amp: bool = False) -> None:
    plan = RunPlan(
        folder=folder,
        model=Fit(),
        seed=0,
        meta=dict,
        schedule=Schedule(steps=steps, checkpoint_interval=2, log_interval=2),
        train_dataloader=DataLoader([dict(inputs=torch.ones(4))] * 12, batch_size=2),
        amp=amp,
        resume=True,
        settings=dict(visualizer=dict(vis_backends=[])),
    )
    build_stage_runner(plan).train()


def rewrite_meta(path: Path, **entries: object) -> None:
    checkpoint = read_checkpoint(path)
    checkpoint["meta"] |= entries
    torch.save(checkpoint, path)


def test_a_checkpoint_says_how_it_was_trained_and_goes_on_so(tmp_path: Path):
    train(tmp_path, 2)
    meta = read_checkpoint(tmp_path / "iter_2.pth")["meta"]
    assert (meta["world_size"], meta["amp"]) == (1, False)
    train(tmp_path, 4)
    assert (tmp_path / "iter_4.pth").exists()


def test_another_precision_is_refused(tmp_path: Path):
    train(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"iter_2\.pth .*cannot go on.* with no --amp, or"):
        train(tmp_path, 4, amp=True)
    rewrite_meta(tmp_path / "iter_2.pth", amp=True)
    with pytest.raises(CheckpointError, match=r"1 process with --amp, .* Resume it with --amp, or"):
        train(tmp_path, 4)


def test_another_number_of_processes_is_refused(tmp_path: Path):
    train(tmp_path, 2)
    rewrite_meta(tmp_path / "iter_2.pth", world_size=2)
    with pytest.raises(CheckpointError, match=r"by 2 processes .*nproc_per_node=2"):
        train(tmp_path, 4)


def test_a_checkpoint_that_does_not_say_goes_on(tmp_path: Path):
    train(tmp_path, 2)
    checkpoint = read_checkpoint(tmp_path / "iter_2.pth")
    del checkpoint["meta"]["world_size"], checkpoint["meta"]["amp"]
    torch.save(checkpoint, tmp_path / "iter_2.pth")
    train(tmp_path, 4)
    assert (tmp_path / "iter_4.pth").exists()


def test_the_seeds_of_a_step_that_raised_hold_for_nothing_afterwards(tmp_path: Path):
    def fails(*_: object) -> None:
        assert agreed_generator() is not None
        raise KeyError("step")

    plan = RunPlan(
        folder=tmp_path,
        model=Fit(),
        seed=0,
        meta=dict,
        schedule=Schedule(steps=2),
        train_dataloader=DataLoader([dict(inputs=torch.ones(4))] * 4, batch_size=2),
        settings=dict(visualizer=dict(vis_backends=[])),
    )
    runner = build_stage_runner(plan)
    runner.model.layer.register_forward_pre_hook(fails)
    with pytest.raises(KeyError):
        runner.train()
    assert agreed_generator() is None
