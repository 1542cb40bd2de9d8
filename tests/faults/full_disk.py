"""A disk that is full after some bytes: one sentence; with room again the run goes on."""

import random
import resource
from collections.abc import Sequence
from pathlib import Path

from harness import Result, Settings, do, main, miniature, outcome, parse_args, run


def _limited(settings: Settings, work: Path, most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    run(settings, work)


STAGES = ("transfer", "merge", "merged")


def measure(folder: Path, num: int, seed: int, stages: Sequence[str] = STAGES) -> Result:
    result, sizes = Result("no file may be larger than some bytes"), random.Random(seed)
    settings = miniature(folder / "miniature", stages)
    code, said = do(lambda: run(settings, folder / "whole"))
    assert code == 0, said
    expected = outcome(folder / "whole")
    for number in range(num):
        work, most = folder / f"work{number}", int(10 ** sizes.uniform(1, 5))
        stopped, first = do(lambda work=work, most=most: _limited(settings, work, most))
        code, said = do(lambda work=work: run(settings, work))
        told = stopped == 0 or (stopped == 2 and "Free space, mend" in first)
        held = told and code == 0 and outcome(work) == expected
        case = f"{most} bytes: exit {stopped}, {first}; then exit {code}, {said}"
        result.count(held, case, "stopped with a sentence" if stopped else "had room")
    return result


if __name__ == "__main__":
    main(measure, parse_args(), 20)
