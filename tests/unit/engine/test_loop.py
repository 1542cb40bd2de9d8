"""A training that was interrupted goes on only in the way that it began."""

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from tove.engine import loop
from tove.engine.checkpoint import read_checkpoint
from tove.engine.loop import StageRunner, build_stage_runner
from tove.engine.optimizer import Schedule
from tove.engine.run_plan import RunPlan
from tove.engine.sharding import SHARD
from tove.errors import CheckpointError


class Fit(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        return {"loss_fit": self.layer(inputs).square().mean()}


def train(folder: Path, steps: int, amp: bool = False, model: BaseModel | None = None) -> None:
    build_stage_runner(plan_of(folder, steps, amp, model)).train()


def plan_of(
    folder: Path, steps: int, amp: bool = False, model: BaseModel | None = None, seed: int = 0
) -> RunPlan:
    return RunPlan(
        folder=folder,
        model=model or Fit(),
        seed=seed,
        meta=dict,
        schedule=Schedule(steps=steps, checkpoint_interval=2, log_interval=2),
        train_dataloader=DataLoader([dict(inputs=torch.ones(4))] * 12, batch_size=2),
        amp=amp,
        resume=True,
        settings=dict(visualizer=dict(vis_backends=[])),
    )


def test_a_runner_has_the_run_s_seed(tmp_path: Path):
    assert build_stage_runner(plan_of(tmp_path, 2, seed=3)).seed == 3


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


def test_a_model_draws_from_what_all_ranks_share_while_it_trains_and_no_longer(tmp_path: Path):
    drawn = []

    class Draws(Fit):
        shared_generator: torch.Generator | None = None

        def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
            drawn.append(torch.rand((), generator=self.shared_generator).item())
            torch.rand(3)  # what a rank draws for itself moves nothing that is shared
            return super().forward(inputs, mode)

    model = Draws()
    train(tmp_path / "whole", 4, model=model)
    assert model.shared_generator is None
    train(tmp_path / "cut", 2, model=Draws())
    train(tmp_path / "cut", 4, model=Draws())
    assert len(set(drawn[:4])) == 4
    assert drawn[4:] == drawn[:4]


@pytest.mark.parametrize(
    ("distributed", "kind", "sharded"),
    [(True, SHARD, True), (True, "MMDistributedDataParallel", False), (False, SHARD, False)],
)
def test_only_a_training_of_several_processes_that_asks_for_it_is_sharded(
    distributed: bool, kind: str, sharded: bool, monkeypatch: pytest.MonkeyPatch
):
    runner, model = object.__new__(StageRunner), Fit()
    runner._distributed = distributed
    monkeypatch.setattr(loop, "shard", lambda model, **options: ("sharded", model, options))
    monkeypatch.setattr(Runner, "wrap_model", lambda self, cfg, model: ("wrapped", model, cfg))
    settings = {"type": kind, "reshard_after_forward": True}
    found = runner.wrap_model(settings, model)
    if sharded:
        assert found == ("sharded", model, {"reshard_after_forward": True})
    else:
        assert found == ("wrapped", model, settings)
