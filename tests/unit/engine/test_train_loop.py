"""The training loop: a model is in training at every step, and set to it where it was not."""

from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from tove.engine.loop import RunPlan, build_stage_runner
from tove.engine.optimizer import Schedule
from tove.registry import METRICS


class Told(BaseModel):
    """Notes each change of mode, each step and each evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.told: list[str] = []

    def train(self, mode: bool = True) -> "Told":
        self.told.append("train" if mode else "eval")
        return super().train(mode)

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> object:
        self.told.append(f"{mode} {self.layer.training}")
        return {"loss": self.layer(inputs).mean()} if mode == "loss" else [None]


@METRICS.register_module()
class NumBatches(BaseMetric):
    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list[int]) -> dict[str, int]:
        return {"batches": sum(results)}


@pytest.fixture
def told(tmp_path: Path) -> list[str]:
    model = Told()
    data = DataLoader([dict(inputs=torch.ones(4))] * 6)
    plan = RunPlan(
        folder=tmp_path,
        model=model,
        seed=0,
        meta=dict,
        schedule=Schedule(steps=5, val_interval=2),
        train_dataloader=data,
        val_dataloader=DataLoader([dict(inputs=torch.ones(4))]),
        evaluator=[dict(type="NumBatches")],
        settings=dict(visualizer=dict(vis_backends=[])),
    )
    runner = build_stage_runner(plan)
    model.told.clear()
    runner.train()
    return model.told


def test_validations_come_when_they_are_due_and_training_goes_on_after_them(told: list[str]):
    step, evaluation = "loss True", ["eval", "predict False"]
    assert told == [
        *["train", step, step, *evaluation],
        *["train", step, step, *evaluation],
        *["train", step, *evaluation],
    ]
