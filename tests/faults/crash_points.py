"""A finished stage is begun again and killed before each file that it replaces or removes.

Resumed, it ends with the row of an undisturbed run; at no moment is there a stage that says it is
finished and lacks its row or its model.
"""

import os
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from harness import Result, Settings, do, leftovers, main, miniature, outcome, parse_args, run

CALLS = ("replace", "rename", "unlink", "link")
KILLED = 9


def _counting(work: Callable[[], object], last: int, tally: Path) -> Callable[[], object]:
    """Make a function end the process before its `last`-th change of the folder's names."""

    def counted() -> None:
        seen = 0

        def watch(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == last:
                    os._exit(KILLED)
                return real(*args, **kwargs)

            return call

        for name in CALLS:
            setattr(os, name, watch(getattr(os, name)))
        work()
        tally.write_text(str(seen))

    return counted


def _is_hollow(stage: Path) -> bool:
    needed = [stage / "rows.json", stage / "model.pth"]
    return (stage / "done.json").exists() and not all(path.exists() for path in needed)


def _ways(settings: Settings) -> dict[str, tuple[Settings, bool]]:
    """Return settings and `resume` of calls that begin a finished stage again."""
    fewer = deepcopy(settings)
    del fewer["model"]["experts"]["dino"]
    return {"the same again": (settings, False), "other experts": (fewer, True)}


def measure(folder: Path, num: int, seed: int) -> Result:
    result, chance = Result("killed before a change of names, then --resume"), random.Random(seed)
    settings = miniature(folder / "miniature", ["transfer"])
    settings["schedule"].update(steps=4)
    finished, tally = folder / "finished", folder / "tally"
    code, said = do(lambda: run(settings, finished))
    assert code == 0, said
    for way, (changed, resume) in _ways(settings).items():
        whole, work = folder / f"whole {way}", folder / "work"
        shutil.copytree(finished, whole)
        code, said = do(_counting(partial(run, changed, whole, resume), 0, tally))
        assert code == 0, said
        points = range(1, int(tally.read_text()) + 1)
        for point in sorted(chance.sample(points, min(num, len(points)))):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(finished, work)
            code, said = do(_counting(partial(run, changed, work, resume), point, tally))
            assert code == KILLED, said
            hollow = _is_hollow(work / "transfer")
            code, said = do(partial(run, changed, work))
            left = leftovers(work)
            held = not hollow and code == 0 and outcome(work) == outcome(whole) and not left
            case = f"{way}, point {point} of {len(points)}: hollow {hollow}, left {left}, "
            case += f"exit {code}, {said}"
            result.count(held, case, way)
    return result


if __name__ == "__main__":
    main(measure, parse_args(), 1000)
