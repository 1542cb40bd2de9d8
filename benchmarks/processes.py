"""What a training step costs a process that shares its gradients with another, over one alone.

    python benchmarks/processes.py

The demo's model from the token cache, gloo, a batch of 32 in each process. Processor time of the
main process, its communication's threads included, the wait for the other left out: what is told is
what working together costs, however the machine's cores are shared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import frame
from frame import Claim
from training_step import CONFIG, batch_of

WORLD = 2


def seconds_of_steps(rank: int, world: int, folder: Path, size: int, rounds: int) -> list[float]:
    """Take training steps, together with the other processes of the folder; seconds of each."""
    import torch
    from mmengine.config import Config
    from mmengine.model import MMDistributedDataParallel
    from mmengine.optim import build_optim_wrapper

    from tove.engine.optimizer import Schedule, optim_wrapper_cfg
    from tove.registry import MODELS

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = MODELS.build(Config.fromfile(str(CONFIG)).model).train()
    wrapper = build_optim_wrapper(model, optim_wrapper_cfg(Schedule(steps=50, lr=1e-5)))
    batch = batch_of(torch.randint(0, 256, (size, 3, 64, 64), dtype=torch.uint8))
    if world > 1:
        place = f"file://{folder}/meeting"
        torch.distributed.init_process_group("gloo", place, world_size=world, rank=rank)
        options = {"find_unused_parameters": model.leaves_unused}  # as the engine does
        model = MMDistributedDataParallel(model, broadcast_buffers=False, **options)
    taken = []
    for _ in range(2 + rounds):  # the first fills the cache
        start = time.process_time()
        model.train_step(batch, optim_wrapper=wrapper)
        taken.append(time.process_time() - start)
    if world > 1:
        torch.distributed.destroy_process_group()
    return taken[2:]


def measured(world: int, size: int, rounds: int) -> list[float]:
    """Return the seconds of the main process's steps in a world of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = ["--size", str(size), "--rounds", str(rounds), "--out", folder]
        command = [sys.executable, __file__, "--world", str(world), *sizes, "--rank"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ranks = [subprocess.Popen([*command, str(r)], env=environment) for r in range(world)]
        codes = [process.wait() for process in ranks]
        if any(codes):
            raise SystemExit(f"a process of {world} did not end well")
        found: list[float] = json.loads((Path(folder) / "0.json").read_text())
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write; with --rank be one of the processes that are measured."""
    parser = frame.parser(__doc__)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--world", type=int, default=WORLD)
    parser.add_argument("--size", type=int, default=32)
    args = parser.parse_args(argv)
    rounds = args.rounds or (1 if args.short else 15)
    size = 2 if args.short else args.size
    if args.rank is not None:
        taken = seconds_of_steps(args.rank, args.world, args.out, size, rounds)
        (args.out / f"{args.rank}.json").write_text(json.dumps(taken))
        return
    alone, together = measured(1, size, rounds), measured(args.world, size, rounds)
    claims = [Claim(f"a step in {args.world} processes / alone", frame.over(together, alone))]
    frame.write("processes", "one process and two", claims, args)


if __name__ == "__main__":
    main()
