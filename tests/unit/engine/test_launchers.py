"""What a launcher says of a process reaches torch."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tove.cli.ending import command
from tove.engine.distributed import init_processes, timeout_of
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


def waits_for_a_stopped_one(rank: int, said: Path) -> int:
    """Join a group of two, of which the second stops after the first collective."""
    os.environ.update(RANK=str(rank))

    @command
    def work(args: None) -> None:
        init_processes("pytorch", rank, timeout_of({"env_cfg": {"dist_cfg": {"timeout": 4}}}))
        dist.barrier()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.all_reduce(torch.ones(1))

    with said.open("w") as stream, contextlib.redirect_stderr(stream):
        return work(None)


def test_a_process_that_was_stopped_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = dict(MASTER_ADDR="localhost", MASTER_PORT=str(free_port()), WORLD_SIZE="2")
    for name, value in {**place, "LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    pids = []
    for rank in range(2):
        pids.append(os.fork())
        if not pids[-1]:
            code = 1
            try:
                code = waits_for_a_stopped_one(rank, tmp_path / f"said{rank}")
            finally:
                os._exit(code)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 2
    finally:
        os.kill(pids[1], signal.SIGKILL)
        os.waitpid(pids[1], 0)
    told = (tmp_path / "said0").read_text()
    assert told.startswith("error: Another process of this run did not answer in time")
    assert len(told.splitlines()) == 1


def test_a_time_to_wait_that_is_none_is_refused():
    assert timeout_of({}) is None
    assert timeout_of({"env_cfg": {"dist_cfg": {"timeout": 90}}}) == timedelta(seconds=90)
    with pytest.raises(ConfigError, match=r"dist_cfg\.timeout is 0, but it must be .*1 or"):
        timeout_of({"env_cfg": {"dist_cfg": {"timeout": 0}}})
    with pytest.raises(ConfigError, match=r"env_cfg\.dist_cfg is 90, but"):
        timeout_of({"env_cfg": {"dist_cfg": 90}})


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
    said = [task.communicate(timeout=120)[0] for task in tasks]
    told = [text.splitlines()[-1].split() for text in said]  # older torch has Gloo say something
    assert told == [["2", "0", "localhost", "3"], ["2", "1", "localhost", "3"]]


def test_slurm_without_a_job_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="needs SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID"):
        init_processes("slurm", 0)


@pytest.mark.parametrize(("job", "port"), [("7", "20007"), ("1234567", "34567")])
def test_each_job_has_a_port_of_its_own(job: str, port: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    for name in ("LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        init_processes("slurm", 0)
    assert os.environ["MASTER_PORT"] == port


def test_a_job_whose_machines_cannot_be_asked_for_is_a_sentence(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")  # so that what is set here is undone
    monkeypatch.delenv("MASTER_ADDR")
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="set MASTER_ADDR to the name of the first one"):
        init_processes("slurm", 0)
