"""A training step of every method on the device: in bfloat16, never waiting; one of a group."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper

from tove.engine.optimizer import Schedule, optim_wrapper_cfg
from tove.modules.collectives import on_main, sum_over_ranks
from tove.registry import MODELS

pytestmark = pytest.mark.gpu

METHODS = sorted((MODELS.import_from_location(), MODELS.module_dict)[1])


def optimiser(model: Any, amp: bool) -> Any:
    schedule = Schedule(steps=10, lr=1e-2, amp_dtype="bfloat16")
    return build_optim_wrapper(model, optim_wrapper_cfg(schedule, amp))


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_trains_in_bfloat16_and_never_waits(
    kind: str,
    make_method: Callable,
    language: Any,
    batch: dict[str, Any],
    device: torch.device,
    never_waits: Callable,
):
    model = make_method(kind, language).to(device).train()
    wrapper = optimiser(model, amp=True)
    model.train_step(batch, optim_wrapper=wrapper)  # the first one may set things up
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    with never_waits():
        losses = model.train_step(batch, optim_wrapper=wrapper)
    assert {value.device.type for value in losses.values()} == {device.type}
    assert all(value.isfinite() for value in losses.values())
    after = dict(model.named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert {after[name].dtype for name in before} == {torch.float32}


@pytest.mark.parametrize("mode", ["tensor", "predict"])
def test_an_answer_is_that_of_the_cpu(
    mode: str, make_method: Callable, language: Any, batch: dict[str, Any], device: torch.device
):
    model = make_method("ToVE", language).eval()
    model.generation = {"num_beams": 2, "max_new_tokens": 3}
    images, samples = batch["images"], batch["data_samples"]
    with torch.no_grad():
        expected = model(images, samples, mode=mode)
        found = model.to(device)(images.to(device), samples, mode=mode)
    if mode == "tensor":
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)
        return
    scores = [
        torch.tensor([s["scores"] for s in side if "scores" in s]) for side in (found, expected)
    ]
    torch.testing.assert_close(*scores, rtol=1e-2, atol=1e-2)


@pytest.fixture
def group(device: torch.device, tmp_path: Path) -> Any:
    """A process group of this process alone: nccl on a GPU, gloo on a CPU."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_of_a_group_trains_as_one_without(
    make_method: Callable, language: Any, batch: dict[str, Any], device: torch.device, group: None
):
    model = make_method("ToVE", language).to(device).train()
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def losses(trained: Any) -> list[float]:
        wrapper = optimiser(model, amp=False)
        found = []
        for _ in range(3):
            torch.manual_seed(0)
            found.append(trained.train_step(batch, optim_wrapper=wrapper)["loss"].item())
        return found

    alone = losses(model)
    model.load_state_dict(start)
    everything = {n for n, _ in (*model.named_parameters(), *model.named_buffers())}
    model._ddp_params_and_buffers_to_ignore = sorted(everything - set(model.state_dict()))
    ids = [0] if device.type == "cuda" else None
    wrapped = MMDistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
    assert losses(wrapped) == pytest.approx(alone, rel=1e-3)
    on_main(lambda: None)
    assert sum_over_ranks(torch.ones(3, device=device)).tolist() == [1, 1, 1]
