"""Runs that several tests look at, made once; and how to start the tools as a user does."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

REPOSITORY = Path(__file__).parents[2]
Launch = Callable[..., subprocess.CompletedProcess[str]]


def tool_environment(**more: str) -> dict[str, str]:
    """Give the environment in which a checkout's tools run, installed or not."""
    roots = [str(REPOSITORY / part) for part in (".", "core", "expert_plugins")]
    path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return {**os.environ, **offline, **more}


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Run `python ARGUMENTS...` in the repository and give what came of it."""

    def run(*arguments: object, timeout: int = 300, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=REPOSITORY,
            env=tool_environment(**more),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def finished_run(
    make_settings: Callable[[], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    launch: Launch,
) -> dict[str, Any]:
    """The miniature run through all its stages: its config file, work folder and output."""
    folder = tmp_path_factory.mktemp("finished")
    config = folder / "mini.py"
    Config(make_settings()).dump(config)
    result = launch("tools/train.py", config, "--work-dir", folder / "work")
    assert result.returncode == 0, result.stderr[-3000:]
    return {"config": config, "work": folder / "work", "output": result.stdout}
