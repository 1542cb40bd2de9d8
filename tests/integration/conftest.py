"""Runs that several tests look at, made once; and how to start the tools as a user does."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from tests.integration.preloaded import Preloaded

REPOSITORY = Path(__file__).parents[2]
Launch = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Stranger:
    """A Python of its own, outside the repository, with our wheel installed in it."""

    home: Path
    python: Path
    site: Path

    @property
    def environment(self) -> dict[str, str]:
        own = ("PYTHONPATH", "VIRTUAL_ENV")
        environment = {name: value for name, value in os.environ.items() if name not in own}
        return environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def __call__(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(self.python), *map(str, arguments)],
            cwd=cwd or self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def pip(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "pip", "-q", "--python", self.python, *arguments]
        subprocess.run([str(part) for part in command], check=True)


@pytest.fixture(scope="session")
def build_wheel() -> Callable[[Path, Path], Path]:
    """Build the wheel of a project into a folder, without the network."""

    def build(project: Path, folder: Path) -> Path:
        options = ("--wheel", "--no-isolation", "-o", str(folder))
        command = [sys.executable, "-m", "build", *options, str(project)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return next(folder.glob("*.whl"))

    return build


@pytest.fixture(scope="session")
def wheel(
    build_wheel: Callable[[Path, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The repository's wheel."""
    return build_wheel(REPOSITORY, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A Python with the wheel installed.

    What the wheel depends on comes from this environment through a .pth file: installing torch
    anew would take minutes and test nothing of ours.
    """
    folder = tmp_path_factory.mktemp("stranger")
    venv.create(folder, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    made = Stranger(folder, folder / "bin/python", folder / "lib" / version / "site-packages")
    made.pip("install", "--no-index", "--no-deps", wheel)
    (made.site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return made


def tool_environment(**more: str) -> dict[str, str]:
    """Give the environment in which a checkout's tools run, installed or not."""
    roots = [str(REPOSITORY / part) for part in (".", "core", "expert_plugins")]
    path = os.pathsep.join([*roots, os.environ.get("PYTHONPATH", "")])
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return {**os.environ, **offline, **more}


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Run `python ARGUMENTS...` in the repository and give what came of it."""
    preloaded = Preloaded(tool_environment(), REPOSITORY)

    def run(*arguments: object, timeout: int = 300, **more: str) -> subprocess.CompletedProcess:
        texts = [str(argument) for argument in arguments]
        if texts[0].startswith("tools/"):
            scratch = tmp_path_factory.mktemp("output")
            return preloaded.run(texts, tool_environment(**more), scratch, timeout)
        return subprocess.run(
            [sys.executable, *texts],
            cwd=REPOSITORY,
            env=tool_environment(**more),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    yield run
    preloaded.close()


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
