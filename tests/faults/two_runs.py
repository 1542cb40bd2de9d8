"""Two runs at once in one work folder or for one data root: one runs, the other is told.

A lock that a killed run left is taken over; a run that SIGTERM ends leaves none.
"""

import os
import signal
import time
from pathlib import Path

from harness import Result, Settings, do, main, miniature, parse_args, run, start, wait
from mmengine.config import Config

from tove.data.prepare import prepare_data


def _scenes(root: Path) -> None:
    scenes = dict(data_root=str(root), train=300, unlabelled=300, val=300, test=300)
    prepare_data(Config(dict(data_root=str(root), scenes=scenes)))


def _at_once(result: Result, case: str, folder: Path, work: object) -> None:
    reading, writing = os.pipe()
    codes = [wait(pid) for pid in [start(work, said=writing) for _ in range(2)]]
    os.close(writing)
    with open(reading) as stream:
        said = stream.read()
    held = sorted(codes) == [0, 2] and said.count("is being written by process") == 1
    result.count(held, f"{case}: {codes}, {said}", case)


def _ended(result: Result, folder: Path, settings: Settings, sign: int, case: str) -> None:
    """Count one run ended by a signal while it holds the lock, and one after it."""
    lock, pid = folder / ".lock", start(lambda: run(settings, folder))
    while not (folder / "transfer/config.json").exists():
        time.sleep(0.01)
    os.kill(pid, sign)
    code = wait(pid)
    left = lock.exists() == (sign == signal.SIGKILL)
    again, said = do(lambda: run(settings, folder))
    held = code != 0 and left and again == 0 and not lock.exists()
    result.count(held, f"{case}: exit {code}, then {again}, {said}", case)


def measure(folder: Path, num: int, seed: int) -> Result:
    result = Result("two runs at once, and what an ended one leaves")
    settings = miniature(folder / "miniature", ["transfer"])
    for number in range(num):
        work = folder / f"work{number}"
        _at_once(result, "one work folder", folder, lambda work=work: run(settings, work))
        world = folder / f"world{number}"
        _at_once(result, "one data root", folder, lambda world=world: _scenes(world))
        killed, ended = folder / f"killed{number}", folder / f"ended{number}"
        _ended(result, killed, settings, signal.SIGKILL, "SIGKILL")
        _ended(result, ended, settings, signal.SIGTERM, "SIGTERM")
    return result


if __name__ == "__main__":
    main(measure, parse_args(), 5)
