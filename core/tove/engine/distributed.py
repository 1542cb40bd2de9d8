"""Joining the process group of a launcher, and what wraps a model within one."""

import os
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import torch
import torch.distributed as dist
from mmengine.model import is_model_wrapper
from torch import nn

from tove.config.validation import Range, check_value
from tove.errors import ConfigError

__all__ = ["init_processes", "is_lost_process", "timeout_of", "unwrapped"]

_TIMEOUT = {
    "env_cfg": dict | None,
    "env_cfg.dist_cfg": dict | None,
    "env_cfg.dist_cfg.timeout": Annotated[float, Range(1, 1e6)] | None,
}
_LOST = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")

_FROM_SLURM = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_NTASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
}


def unwrapped(model: nn.Module) -> Any:  # noqa: ANN401 - a method's
    """Return the model within what DDP, or another wrapper, puts around it."""
    return model.module if is_model_wrapper(model) else model


def timeout_of(settings: Mapping[str, Any]) -> timedelta | None:
    """Return how long processes wait for each other, None for torch's time of the backend.

    Args:
        settings: with mmengine's `env_cfg.dist_cfg.timeout`, in seconds, if there is one.

    Raises:
        ConfigError: it is no time.
    """
    found: Any = settings
    for key, kind in _TIMEOUT.items():
        found = (found or {}).get(key.rpartition(".")[2])
        check_value(found, kind, key)
    return None if found is None else timedelta(seconds=found)


def is_lost_process(error: Exception) -> bool:
    """Tell whether an error says that another process does not answer any more."""
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LOST)


def init_processes(launcher: str, local_rank: int, timeout: timedelta | None = None) -> bool:
    """Join the process group where a launcher started several processes.

    mmengine's own set-up calls `torch.cuda.set_device` whatever the backend, which fails on a
    machine without an accelerator; there the gloo group is made here, and mmengine finds it.

    Args:
        launcher: "none"; "pytorch" reads the environment that torchrun sets, "slurm"
            that of a task of srun.
        local_rank: of this process on its machine, where the environment does not say.
        timeout: see `timeout_of`.

    Returns:
        Whether this run is distributed.

    Raises:
        ConfigError: the environment is not a launcher's.
    """
    if launcher == "none":
        return False
    if launcher == "slurm":
        _read_slurm()
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
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timeout)
    return True


def _read_slurm() -> None:
    """Say in torch's words what slurm says of this task; an address or port given stays."""
    missing = [name for name in _FROM_SLURM.values() if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--launcher slurm needs {', '.join(missing)} in the environment; start the command "
            "with `srun` inside a job, or `mim train ... --launcher slurm --partition NAME`."
        )
    os.environ.update({name: os.environ[theirs] for name, theirs in _FROM_SLURM.items()})
    # Two jobs that share a machine have different ports.
    port = 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000
    os.environ.setdefault("MASTER_PORT", str(port))
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host(os.environ.get("SLURM_JOB_NODELIST", ""))


def _first_host(nodes: str) -> str:
    """Return the first machine of slurm's short list of them ("node[03-07,9]")."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(
            f"--launcher slurm could not ask slurm for the machines of this job "
            f"(`{' '.join(command)}`: {error}); set MASTER_ADDR to the name of the first one."
        ) from error
