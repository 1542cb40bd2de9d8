"""Ctrl-C, a reader that has read enough, a read-only disk, the C locale: nothing lost, and told.

Each is the real command, in a forked process; the C locale in an interpreter of its own, for which
data, config and work folder have names that ASCII has not.
"""

import argparse
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from harness import (
    ROOT,
    Result,
    Settings,
    do,
    leftovers,
    main,
    miniature,
    outcome,
    parse_args,
    start,
    wait,
)

STAGES = ["transfer", "merge", "merged"]
NEW_MOUNTS, NEW_USERS = 0x20000, 0x10000000  # of unshare(2)
PRIVATE, BIND, READ_ONLY = 0x4000 | 1 << 18, 0x1000, 0x20 | 0x1000 | 1  # of mount(2)


def train(config: Path, work: Path) -> int:
    """Do what tools/train.py does; return its exit status."""
    from tove.cli import train

    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = dict(config=str(config), work_dir=str(work), resume=True, cfg_options=None)
    rest = dict(stage=None, checkpoint=None, amp=False, launcher="none", local_rank=0)
    return train(argparse.Namespace(**given, **rest))


def compare(work: Path, folder: Path) -> int:
    from tove.cli import compare

    rest = dict(metric=None, pool=[], plot=folder / "c.png", json=folder / "c.json", csv=None)
    return compare(argparse.Namespace(work_dirs=[work], **rest))


def write(settings: Settings, file: Path) -> Path:
    lines = (f"{key} = {value!r}\n" for key, value in settings.items())
    file.write_text("".join(lines), "utf-8")
    return file


def quiet(said: str) -> bool:
    """Tell whether nothing of ours was printed; libraries may warn of what they load."""
    return not any(word in said for word in ("Traceback", "error: ", "Broken pipe", "Exception"))


def sentence(said: str) -> bool:
    """Tell whether what was printed has no traceback and one line of an error."""
    lines = said.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return "Traceback" not in said and len(errors) == 1 and errors == lines[-1:]


# --- cases ----------------------------------------------------------------------------------------


def interrupted(config: Path, folder: Path, moment: float, expected: dict) -> tuple[bool, str]:
    """Press Ctrl-C at a moment, then go on."""
    work, log = folder / "work", folder / "log"
    pid = start(lambda: train(config, work), log)
    time.sleep(moment)
    os.kill(pid, signal.SIGINT)
    code = wait(pid)
    said = log.read_text()
    told = code == 0 or (code == 130 and "interrupted; --resume" in said)
    again, rest = do(lambda: train(config, work))
    left = leftovers(work)
    held = told and "Traceback" not in said and again == 0 and not left
    held = held and outcome(work) == expected
    return held, f"after {moment:.2f} s exit {code}, then {again}, left {left}: {said[-500:]}{rest}"


def with_reader_gone(work: Callable[[], int], lines: int, log: Path) -> tuple[int, str]:
    """Do something whose output is read for some lines, as by `head`."""
    reading, writing = os.pipe()

    def piped() -> int:
        os.close(reading)
        os.dup2(writing, 1)
        return work()

    pid = start(piped, log)
    os.close(writing)
    with open(reading) as stream:
        for _ in range(lines):
            stream.readline()
    return wait(pid), log.read_text()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Put a folder on a read-only disk, for this process alone.

    Raises:
        PermissionError: nothing can be mounted here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    path = str(folder).encode()
    if libc.unshare(NEW_MOUNTS) and libc.unshare(NEW_USERS | NEW_MOUNTS):
        raise PermissionError(ctypes.get_errno(), "unshare")
    for arguments in (
        (b"none", b"/", None, PRIVATE, None),
        (path, path, None, BIND, None),
        (None, path, None, READ_ONLY, None),
    ):
        if libc.mount(*arguments):
            raise PermissionError(ctypes.get_errno(), "mount")
    yield


def _read_only(folder: Path, work: Callable[[], int]) -> int:
    try:
        with read_only(folder):
            return work()
    except PermissionError:
        return 77  # what test scripts call skipped


def measure_interrupts(
    result: Result, config: Path, folder: Path, num: int, chance: random.Random
) -> None:
    begun = time.perf_counter()
    code, said = do(lambda: train(config, folder / "whole"))
    assert code == 0, said
    seconds, expected = time.perf_counter() - begun, outcome(folder / "whole")
    for number in range(num):
        (folder / f"interrupted{number}").mkdir()
        moment = chance.uniform(0.02, 0.95) * seconds
        held, case = interrupted(config, folder / f"interrupted{number}", moment, expected)
        result.count(held, f"SIGINT {case}", "SIGINT")


def measure_readers(result: Result, config: Path, folder: Path, num: int) -> None:
    expected = outcome(folder / "whole")
    for lines in range(num):
        work, log = folder / f"piped{lines}", folder / f"piped{lines}.log"
        code, said = with_reader_gone(lambda work=work: train(config, work), lines, log)
        again, rest = do(lambda work=work: train(config, work))
        held = code == 141 and quiet(said) and again == 0 and outcome(work) == expected
        result.count(held, f"train | head -{lines}: {code}, {said[-500:]}, {rest}", "stdout | head")
    code, said = with_reader_gone(lambda: compare(folder / "whole", folder), 1, folder / "c.log")
    held = code == 141 and quiet(said)
    result.count(held, f"compare | head -1: {code}, {said}", "stdout | head")


def measure_read_only(result: Result, settings: Settings, folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    scenes = dict(data_root=str(disk / "world"), train=2, unlabelled=2, val=2, test=2)
    world = settings | {"data_root": scenes["data_root"], "scenes": scenes}
    configs = {
        "a new work folder": (write(settings, folder / "plain.py"), disk / "new"),
        "an old work folder": (write(settings, folder / "old.py"), disk / "old"),
        "a new data root": (write(world, folder / "world.py"), folder / "elsewhere"),
    }
    shutil.copytree(folder / "whole", disk / "old")
    shutil.rmtree(disk / "old/merged")
    for name, (config, work) in configs.items():
        log = folder / f"{name}.log"
        pid = start(lambda c=config, w=work: _read_only(disk, lambda: train(c, w)), log)
        code, said = wait(pid), log.read_text()
        if code == 77:
            result.notes["read-only disk: nothing can be mounted here"] = 1
            return
        result.count(code == 2 and sentence(said), f"{name}: {code}, {said}", "read-only disk")


def measure_locale(result: Result, settings: Settings, folder: Path) -> None:
    data = folder / "Bäume"
    shutil.copytree(settings["data_root"], data)
    for file in (data / "annotations").iterdir():
        file.write_text(file.read_text().replace(".png", "ü.png"), "utf-8")
    for file in (data / "images").iterdir():
        file.rename(file.with_name(f"{file.stem}ü.png"))
    stages = [*settings["stages"], dict(type="ReportStage", name="report", title="Größe ±")]
    config = write(settings | {"data_root": str(data), "stages": stages}, folder / "läuft.py")
    places = [str(ROOT / part) for part in (".", "core", "expert_plugins")]
    plain = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    plain["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # what is forked has these
    works = [folder / "Läufe", folder / "usual"]
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    command = [sys.executable, ROOT / "tools/train.py", config, "--work-dir"]
    done = subprocess.run(
        [*command, works[0]], env=plain | c_locale, capture_output=True, check=False
    )
    code, said = do(lambda: train(config, works[1]))
    page = works[0] / "report.html"
    held = done.returncode == code == 0 and outcome(works[0]) == outcome(works[1])
    held = held and "Größe ±" in page.read_text("utf-8")
    result.count(held, f"C locale: {done.returncode}, {done.stderr[-800:]!r}, {said}", "C locale")


def measure(folder: Path, num: int, seed: int, kinds: int = 4) -> Result:
    """Try `num` moments of SIGINT and `num` lengths of `head`; the rest once.

    Args:
        folder: an empty one.
        num: of the first two kinds.
        seed: draws moments.
        kinds: how many kinds, in the order of this module's first line.
    """
    result = Result("SIGINT, `stdout | head`, a read-only disk, the C locale")
    settings = miniature(folder / "miniature", STAGES)
    settings["data_root"] = str(folder / "miniature/data")
    config = write(settings, folder / "config.py")
    chance = random.Random(seed)
    works: list[Callable[[], None]] = [
        lambda: measure_interrupts(result, config, folder, num, chance),
        lambda: measure_readers(result, config, folder, num),
        lambda: measure_read_only(result, settings, folder),
        lambda: measure_locale(result, settings, folder),
    ]
    for work in works[:kinds]:
        work()
    return result


if __name__ == "__main__":
    main(measure, parse_args(), 5)
