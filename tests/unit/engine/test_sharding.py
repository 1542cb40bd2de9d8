"""A sharded state, gathered in the main process or kept in parts."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tove.engine.sharding import gathered, joined, own_parts, placed

WHOLE = torch.arange(12.0).view(4, 3)
UNEVEN = torch.arange(15.0).view(5, 3)


def sharded_in_two(rank: int, folder: Path, tensor: torch.Tensor) -> DTensor:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    return distribute_tensor(tensor, init_device_mesh("cpu", (2,)), [Shard(0)])


def one_of_two(rank: int, folder: Path) -> None:
    sharded = sharded_in_two(rank, folder, WHOLE)
    state = gathered({"state": [{"moment": sharded, "step": 3}]})["state"][0]
    rooms = state["moment"].untyped_storage().nbytes()
    torch.save((state["moment"].clone(), state["step"], rooms), folder / f"{rank}.pt")


def test_the_others_hold_its_shape_and_nothing_of_it(tmp_path: Path):
    torch.multiprocessing.start_processes(one_of_two, (tmp_path,), 2, start_method="fork")
    (main, step, _), (other, _, rooms) = (torch.load(tmp_path / f"{r}.pt") for r in range(2))
    assert torch.equal(main, WHOLE)
    assert step == 3
    assert other.shape == WHOLE.shape
    assert rooms == 4  # bytes


def keeps_its_part(rank: int, folder: Path) -> None:
    sharded = sharded_in_two(rank, folder, UNEVEN)
    parts = own_parts({"state": {0: {"moment": sharded, "step": torch.tensor(3.0)}}, "of": [rank]})
    torch.save(parts, folder / f"{rank}.pt")
    again = placed(torch.load(folder / f"{rank}.pt", weights_only=True), sharded)
    moment = again["state"][0]["moment"]
    assert moment.placements == sharded.placements
    assert torch.equal(moment.full_tensor(), UNEVEN)


def test_each_process_keeps_its_part_and_together_they_are_the_whole(tmp_path: Path):
    torch.multiprocessing.start_processes(keeps_its_part, (tmp_path,), 2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole = joined(parts)
    assert torch.equal(whole["state"][0]["moment"], UNEVEN)
    assert whole["state"][0]["step"] == 3
    assert whole["of"] == [0]
