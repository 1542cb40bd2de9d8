"""A training step reads nothing back from the device: what is read is waited for."""

from pathlib import Path

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from tove.engine.loop import build_stage_runner
from tove.engine.optimizer import Schedule
from tove.engine.run_plan import RunPlan

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")


class Fit(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        return {"loss_fit": self.layer(inputs).square().mean()}


class Reads(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name in READS
        return func(*args, **(kwargs or {}))


def reads_of(folder: Path, steps: int) -> int:
    plan = RunPlan(
        folder=folder,
        model=Fit(),
        seed=0,
        meta=dict,
        schedule=Schedule(steps=steps, checkpoint_interval=steps, log_interval=steps),
        train_dataloader=DataLoader([dict(inputs=torch.ones(4))] * 2 * steps, batch_size=2),
        settings=dict(visualizer=dict(vis_backends=[])),
    )
    runner = build_stage_runner(plan)
    with Reads() as reads:
        runner.train()
    return reads.count


def test_more_steps_need_no_more_waiting(tmp_path: Path):
    few, many = reads_of(tmp_path / "few", 4), reads_of(tmp_path / "many", 12)
    assert many <= few


def test_the_console_still_gets_losses_and_the_norm(tmp_path: Path):
    reads_of(tmp_path, 6)
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "loss_fit: " in log
    assert "grad_norm: " in log
    first, *_ = (tmp_path / "loss.jsonl").read_text().splitlines()
    assert '"grad_norm"' in first
