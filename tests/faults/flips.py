"""One flipped bit in what a run has left: it is noticed before the file is used, or harmless."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Result, Settings, do, main, miniature, outcome, parse_args, run

import tove
from tove.engine.checkpoint import read_checkpoint
from tove.errors import ConfigError
from tove.report.compare.runs import read_run

Use = Callable[[Path, Path], Any]

PLACES = {
    "checkpoints to resume from": ["transfer/iter_*.pth", "merge/iter_*.pth"],
    "models": ["*/model.pth", "detach/slim_*.pth"],
    "export": ["export/*.*", "export/open_clip/*.*"],
    "records of stages": ["*/rows.json", "*/done.json", "*/config.json", "*/images_seen.txt"],
    "results.json": ["results.json"],
}


def _same(a: Any, b: Any) -> bool:  # anything that a checkpoint holds
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, type(a)) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    if hasattr(a, "__dict__"):  # what mmengine keeps of a training
        return type(a) is type(b) and _same(vars(a), vars(b))
    return bool(a == b)


def _read(work: Path, file: Path) -> Any:
    return read_checkpoint(file)


def _load(work: Path, file: Path) -> Any:
    model = tove.load(work, stage="merged").model
    return dict(model.named_parameters())


def _compare(work: Path, file: Path) -> Any:
    return read_run(work).rows


def _resume(settings: Settings) -> Use:
    def use(work: Path, file: Path) -> Any:
        copy = work.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(work, copy)
        code, said = do(lambda: run(settings, copy))
        if code == 2:
            raise ConfigError(said)
        return outcome(copy) if code == 0 else {}

    return use


def measure(folder: Path, num: int, seed: int) -> Result:
    result, chance = Result("one bit flipped in a file of a finished run"), random.Random(seed)
    settings = miniature(folder / "miniature", ["transfer", "detach", "merge", "merged"])
    work = folder / "work"
    code, said = do(lambda: run(settings, work))
    assert code == 0, said
    resume = _resume(settings)
    uses = dict(zip(PLACES, (_read, _read, _load, resume, _compare), strict=True))
    for number in range(num):
        kind = list(PLACES)[number % len(PLACES)]
        file = chance.choice(sorted(p for g in PLACES[kind] for p in work.glob(g)))
        before = file.read_bytes()
        if not before:
            continue
        expected = uses[kind](work, file)
        bit = chance.randrange(8 * len(before))
        after = bytearray(before)
        after[bit // 8] ^= 1 << bit % 8
        file.write_bytes(after)
        try:
            told = "" if _same(uses[kind](work, file), expected) else "used as it was"
            held, what = not told, "harmless"
        except ConfigError:
            told, held, what = "", True, "noticed"
        except Exception as error:
            told, held, what = f"a traceback: {type(error).__name__}: {error}", False, ""
        file.write_bytes(before)
        result.count(held, f"bit {bit} of {file.relative_to(work)}: {told}", what)
    return result


if __name__ == "__main__":
    main(measure, parse_args(), 80)
