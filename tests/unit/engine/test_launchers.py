"""What a launcher says of a process reaches torch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tove.engine.distributed import init_processes
from tove.errors import ConfigError

# Each task of a job of two adds its rank + 1 to the others'.
TASK = """
import os, torch, torch.distributed as dist
from tove.engine.distributed import init_processes
assert init_processes("slurm", 0)
total = torch.tensor(dist.get_rank() + 1)
dist.all_reduce(total)
print(dist.get_world_size(), os.environ["LOCAL_RANK"], os.environ["MASTER_ADDR"], int(total))
dist.destroy_process_group()
"""
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames here[1-2]" ] && echo localhost && echo elsewhere
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for slurm's command")
def test_the_tasks_of_a_slurm_job_meet(tmp_path: Path):
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    job = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NODELIST": "here[1-2]",
        "MASTER_PORT": str(free_port()),
        "CUDA_VISIBLE_DEVICES": "",
    }
    job.pop("MASTER_ADDR", None)
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", TASK],
            env={**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [task.communicate(timeout=120)[0].split() for task in tasks]
    assert told == [["2", "0", "localhost", "3"], ["2", "1", "localhost", "3"]]


def test_slurm_without_a_job_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="needs SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID"):
        init_processes("slurm", 0)


def test_a_job_whose_machines_cannot_be_asked_for_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")  # so that what is set here is undone
    monkeypatch.delenv("MASTER_ADDR")
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="set MASTER_ADDR to the name of the first one"):
        init_processes("slurm", 0)
