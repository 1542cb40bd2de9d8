"""SIGKILL at random moments of a run; resumed, it has the rows and losses of one left alone."""

import random
import time
from collections.abc import Sequence
from pathlib import Path

from harness import Result, do, kill, leftovers, main, miniature, outcome, parse_args, run, start

STAGES = ("transfer", "detach", "merge", "merged")


def measure(folder: Path, num: int, seed: int, stages: Sequence[str] = STAGES) -> Result:
    result, moments = Result("SIGKILL at a random moment, then --resume"), random.Random(seed)
    settings = miniature(folder / "miniature", stages)
    begun = time.perf_counter()
    code, said = do(lambda: run(settings, folder / "whole"))
    assert code == 0, said
    seconds, expected = time.perf_counter() - begun, outcome(folder / "whole")
    for number in range(num):
        work = folder / f"work{number}"
        moment = moments.uniform(0.02, 0.95) * seconds
        killed = kill(start(lambda work=work: run(settings, work)), moment)
        code, said = do(lambda work=work: run(settings, work))
        left = leftovers(work)
        held = code == 0 and outcome(work) == expected and not left
        case = f"killed after {moment:.2f} of {seconds:.2f} s: exit {code}, left {left}, {said}"
        result.count(held, case, "killed in time" if killed else "ended before")
    return result


if __name__ == "__main__":
    main(measure, parse_args(), 20)
