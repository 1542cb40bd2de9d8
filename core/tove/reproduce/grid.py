"""Runs the cells of a grid, some at once, each in a process of its own.

A cell is `tools/train.py` on a config written into its work folder, resumed where it was killed; a
cell that has a record is not run again. A cell that fails is named with what it said, and the
others go on.
"""

import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from tove.atomic_io import write_text, writing
from tove.config.overlay import plain_settings
from tove.data.prepare import prepare_data
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.engine.progress import passing
from tove.errors import ConfigError
from tove.locks import locked
from tove.reproduce.cells import Cell
from tove.reproduce.records import Record, keep, read
from tove_plugins import ExpertBuildError, ExpertNotAvailable

__all__ = ["Grid", "checked_config", "failure"]

_LOOK = 0.2  # seconds between looks at the processes
_SAID = re.compile(r"^error: (?P<sentence>.*)$", re.M)


class Grid:
    """Cells, their folder and how they are run.

    Args:
        work: folder of all runs.
        records: folder of what is kept of them.
        train: the script that runs a config.
        jobs: processes at once; None is one for every core.
        console: where to say what happens.
    """

    def __init__(
        self, work: Path, records: Path, train: Path, jobs: int | None, console: Console
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.work, self.records, self.train, self.console = work, records, train, console
        self.jobs = jobs or cores or 1
        self.threads = max(1, (cores or 1) // self.jobs)
        self.failed: dict[str, str] = {}

    def run(self, cells: Iterable[Cell]) -> dict[str, Record]:
        """Run what has no record yet, and return the records of all that finished, by name.

        Args:
            cells: in the order in which they begin; of equal ones the first counts.

        Raises:
            ConfigError: a cell is refused, before any begins; another process runs this grid; or
                the data cannot be written.
        """
        distinct = {cell.name: cell for cell in cells}
        found = {name: read(cell, self.records) for name, cell in distinct.items()}
        waiting = [cell for name, cell in distinct.items() if found[name] is None]
        known = len(distinct) - len(waiting)
        self.console.print(f"{len(distinct)} cells, {known} of them finished")
        if waiting:
            with writing(self.work), locked(self.work / ".lock", f"The grid in {self.work}"):
                self._prepare(waiting)
                found |= self._run(waiting)
        return {name: record for name, record in found.items() if record is not None}

    def _prepare(self, cells: Sequence[Cell]) -> None:
        """Write the scenes of the cells, each set once, and the configs."""
        checked = [checked_config(cell) for cell in cells]
        roots = set()
        for cell, cfg in zip(cells, checked, strict=True):
            cell.folder.mkdir(parents=True, exist_ok=True)
            write_text(_config_of(cell), Config(dict(cell.cfg)).pretty_text)
            if cfg.data_root not in roots:
                roots.add(cfg.data_root)
                prepare_data(cfg)

    def _run(self, cells: Sequence[Cell]) -> dict[str, Record]:
        found = {}
        with passing("cells", len(cells), self.console, unit="cells") as advance:
            for cell, status, seconds in self._finished(cells):
                if status == 0:
                    found[cell.name] = keep(cell, self.records, seconds)
                    self.console.print(f"{cell}: took {seconds:.0f} s")
                else:
                    self.failed[str(cell)] = _said(cell, status)
                    self.console.print(f"{cell} failed: {_said(cell, status)}")
                advance(1)
        return found

    def _finished(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, int, float]]:
        """Yield the cells as they end, with their exit status and seconds."""
        waiting = deque(cells)
        running: dict[subprocess.Popen[bytes], tuple[Cell, float]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    cell = waiting.popleft()
                    running[self._start(cell)] = cell, time.monotonic()
                ended = [process for process in running if process.poll() is not None]
                for process in ended:
                    cell, began = running.pop(process)
                    yield cell, int(process.returncode), time.monotonic() - began
                if not ended:
                    time.sleep(_LOOK)
        finally:
            for process in running:
                process.terminate()  # a training saves where it is
            for process in running:
                process.wait()

    def _start(self, cell: Cell) -> "subprocess.Popen[bytes]":
        command = [sys.executable, str(self.train), str(_config_of(cell))]
        command += ["--work-dir", str(cell.folder), "--resume"]
        environment = {"OMP_NUM_THREADS": str(self.threads), **os.environ}
        with writing(_log_of(cell)), _log_of(cell).open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def checked_config(cell: Cell) -> Config:
    """Return a cell's config, filled in.

    Raises:
        ConfigError: its run would refuse it.
    """
    cfg = Config(plain_settings({**cell.cfg, "work_dir": str(cell.folder)}))
    try:
        check_config(cfg)
        StagedRunner(cfg).build_stages()
    except (ConfigError, ExpertBuildError, ExpertNotAvailable) as error:
        raise ConfigError(f"The cell {cell} would not run: {error}") from error
    return cfg


def _config_of(cell: Cell) -> Path:
    return cell.folder / "cell.py"


def _log_of(cell: Cell) -> Path:
    return cell.folder / "log.txt"


def _said(cell: Cell, status: int) -> str:
    """Return what a cell's run said when it failed."""
    log = _log_of(cell)
    text = log.read_text(errors="replace") if log.is_file() else ""
    said = _SAID.findall(text)
    why = said[-1] if said else f"it ended with status {status}"
    return f"{why.rstrip('.')} ({log})"


def failure(failed: Mapping[str, str], cells: int) -> ConfigError:
    """Return the one sentence for cells that failed."""
    first = next(iter(failed))
    return ConfigError(
        f"{len(failed)} of {cells} cells failed, the first of them {first}: {failed[first]}. What "
        "has finished is kept; mend that, and the same command goes on."
    )
