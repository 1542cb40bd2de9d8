"""What all benchmarks share: works that take turns in one run, ratios with their spread, one file.

A time says little about another machine, or about this one under another load; the ratio of two
works that took turns says the same everywhere. A claim is such a ratio, one number a round; told
are the median of the rounds and their quartiles, and whether the median reaches the goal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]
sys.path[:0] = [path for path in PATHS if path not in sys.path]

from tove.command_line import keep_freed_memory  # noqa: E402 - found on the paths above

keep_freed_memory()  # as our commands do
OUT = Path(os.environ.get("OUT") or Path(__file__).parent / "out")

Work = Callable[[], object]


@dataclass(frozen=True)
class Claim:
    """One number that is promised, or only watched.

    Attributes:
        what: in words.
        values: one a round.
        goal: that the median is to reach; None promises nothing.
        at_least: the goal is a floor; else it is a ceiling.
        unit: "" is a ratio.
        why: what a goal that is missed is missed by.
    """

    what: str
    values: Sequence[float]
    goal: float | None = None
    at_least: bool = False
    unit: str = ""
    why: str = ""

    @property
    def median(self) -> float:
        """The number that counts."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which half of the rounds lie; the extremes of fewer than four."""
        if len(self.values) < 4:
            return min(self.values), max(self.values)
        low, _, high = statistics.quantiles(self.values, n=4)
        return low, high

    @property
    def holds(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    def entry(self) -> dict[str, Any]:
        """Return what the file holds."""
        low, high = self.quartiles
        return {
            "what": self.what,
            "median": self.median,
            "low": low,
            "high": high,
            "unit": self.unit,
            "goal": self.goal,
            "at_least": self.at_least,
            "holds": self.holds,
            "why": self.why,
        }


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark takes."""
    made = argparse.ArgumentParser(description=str(doc).partition("\n")[0])
    made.add_argument("--short", action="store_true", help="small sizes: that it runs, no numbers")
    made.add_argument("--rounds", type=int, help="turns of each work")
    made.add_argument("--out", type=Path, default=OUT, help="folder of the result")
    return made


def in_turns(
    works: Mapping[str, Work],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
    wait: Work = lambda: None,
    warm_up: int = 2,
) -> dict[str, list[float]]:
    """Return the seconds of each work, one number a round, each in another order.

    Args:
        works: by name.
        rounds: turns of each.
        clock: the processor's own time leaves out what other programs took; it adds up threads.
        wait: for what a work has queued on a device.
        warm_up: rounds before those that count.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    names, chance = list(works), random.Random(0)
    for turn in range(warm_up + rounds):
        chance.shuffle(names)  # what a work finds in caches and memory is left by the one before
        for name in names:
            wait()
            start = clock()
            works[name]()
            wait()
            if turn >= warm_up:
                found[name].append(clock() - start)
    return found


def over(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the rounds' ratios."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def machine() -> dict[str, Any]:
    """Say where it ran."""
    found: dict[str, Any] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else ())
        if line.startswith("model name")
    ]
    if names:
        found["processor"] = names[0]
    if torch := sys.modules.get("torch"):
        found |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if torch.cuda.is_available():
            found["card"] = torch.cuda.get_device_name()
    return found


def write(
    name: str, title: str, claims: Sequence[Claim], args: argparse.Namespace, **more: object
) -> None:
    """Print the claims, and write them to NAME.json in the folder of results.

    Args:
        name: of the benchmark.
        title: what it measures, as the docs' table says it.
        claims: in their order.
        args: of `parser`.
        **more: entries of the file beside them.
    """
    for claim in claims:
        print(line(claim.entry()))
    held = [claim.holds for claim in claims if claim.holds is not None]
    result = {
        "name": name,
        "title": title,
        "claims": [claim.entry() for claim in claims],
        "holds": all(held) if held else None,
        "short": args.short,
        "machine": machine(),
        **more,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def line(claim: Mapping[str, Any]) -> str:
    """Return a claim in words and numbers."""
    return f"{claim['what']}: {spread(claim)}" + (
        f", goal {goal(claim)}, {'holds' if claim['holds'] else 'missed'}"
        if claim["goal"] is not None
        else ""
    )


def spread(claim: Mapping[str, Any]) -> str:
    """Return a claim's median and its quartiles."""
    unit = f" {claim['unit']}" if claim["unit"] else ""
    low, middle, high = (number(claim[key]) for key in ("low", "median", "high"))
    return f"{middle}{unit}" + (f" ({low} to {high})" if low != high else "")


def goal(claim: Mapping[str, Any]) -> str:
    """Return a claim's goal."""
    unit = f" {claim['unit']}" if claim["unit"] else ""
    return f"{'at least' if claim['at_least'] else 'at most'} {number(claim['goal'])}{unit}"


def number(value: float) -> str:
    """Return a number with three digits that count, at most three behind the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{3 if abs(value) < 1 else 2}f}"
