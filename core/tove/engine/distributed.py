"""Joining the process group of a launcher."""

import os

import torch
import torch.distributed as dist

from tove.errors import ConfigError

__all__ = ["init_processes"]


def init_processes(launcher: str, local_rank: int) -> bool:
    """Join the process group where a launcher started several processes.

    mmengine's own set-up calls `torch.cuda.set_device` whatever the backend, which fails on a
    machine without an accelerator; there the gloo group is made here, and mmengine finds it.

    Returns:
        Whether this run is distributed.
    """
    if launcher == "none":
        return False
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--launcher pytorch needs {', '.join(missing)} in the environment; start the command "
            "with `torchrun --nproc_per_node=N` or `mim train ... --launcher pytorch --gpus N`."
        )
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return True
