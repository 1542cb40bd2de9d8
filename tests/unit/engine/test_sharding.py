"""A sharded state is whole in the main process alone."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from tove.engine.sharding import gathered

WHOLE = torch.arange(12.0).view(4, 3)


def one_of_two(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    sharded = distribute_tensor(WHOLE, init_device_mesh("cpu", (2,)), [Shard(0)])
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
