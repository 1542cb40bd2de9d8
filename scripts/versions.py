"""Run the unit and conformance tiers on the versions that pyproject allows, and print a table.

    python scripts/versions.py [--only NAME] [--keep DIR] [--processes N] [--minutes M]

Each combination is an environment of its own, made by the Python that its name says; one whose
Python is not on the machine is told and left out. "lowest" takes every dependency that pyproject
names at its lower bound. The tests run part by part, a folder or a file of `tests/unit` each; with
--keep a later call goes on with the parts that are left, of the same commit or not.
What has been tried so far: docs/decisions/transformers-versions.md.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("passed", "skipped", "failed", "error")
COUNTED = re.compile(r"(\d+) (passed|failed|skipped|error)")
# What the tests of the experts' libraries need is left out where these do not run.
WITHOUT_MM = ("--ignore=tests/unit/experts/test_openmmlab.py", "-k", "not mmdet and not mmpretrain")
NEWEST = ("transformers>=5,<6", "scipy")  # the extra `experts`, but for what asks for version 4
TOLD = ("torch", "transformers", "timm", "open_clip_torch", "peft", "numpy", "pillow")


@dataclass(frozen=True)
class Combination:
    """One environment.

    Attributes:
        name: in the table.
        python: the interpreter.
        pins: requirements beside the project's own; "lowest" stands for all its lower bounds.
        extras: of the project.
    """

    name: str
    python: str
    pins: tuple[str, ...]
    extras: tuple[str, ...]


COMBINATIONS = (
    Combination("3.11, lowest", "python3.11", ("lowest",), ("dev", "mim", "experts")),
    Combination(
        "3.11, transformers 4.57",
        "python3.11",
        ("transformers==4.57.*",),
        ("dev", "mim", "experts"),
    ),
    Combination("3.11, transformers 5", "python3.11", NEWEST, ("dev", "mim", "maps")),
    Combination("3.12, transformers 5", "python3.12", NEWEST, ("dev", "mim", "maps")),
    Combination("3.13, transformers 5", "python3.13", NEWEST, ("dev", "mim", "maps")),
)


def lower_bounds(project: dict[str, Any], extras: Iterable[str]) -> list[str]:
    """Return a pin to its lower bound for each requirement of a project and its extras.

    Args:
        project: pyproject's table of that name. An extra may name extras of the project itself.
        extras: which of them are installed.
    """
    optional = project["optional-dependencies"]
    waiting = [*project["dependencies"], *(text for extra in extras for text in optional[extra])]
    pins = []
    while waiting:
        requirement = Requirement(waiting.pop(0))
        if requirement.name == project["name"]:
            waiting += [text for extra in requirement.extras for text in optional[extra]]
        bounds = (bound for bound in requirement.specifier if bound.operator == ">=")
        pins += [f"{requirement.name}=={bound.version}" for bound in bounds]
    return pins


def runs(python: str) -> bool:
    """Return whether an interpreter is on this machine; pyenv's shims alone are not one."""
    command = shutil.which(python)
    return command is not None and not subprocess.call(
        [command, "-c", ""], stderr=subprocess.DEVNULL
    )


def install(combination: Combination, folder: Path) -> None:
    """Make the environment in a folder."""
    pins = list(combination.pins)
    if pins == ["lowest"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        pins = lower_bounds(project, combination.extras)
    subprocess.run([combination.python, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q"]
    project_and_extras = f"{ROOT}[{','.join(combination.extras)}]"
    subprocess.run([*pip, "-e", project_and_extras, *pins], check=True)
    if "experts" in combination.extras:  # as in the Makefile: of two builds of cv2 this one stays
        headless = "opencv-python-headless"
        pin = f"{headless}=={versions(folder, (headless,))[headless]}"
        subprocess.run([*pip, "--force-reinstall", "--no-deps", pin], check=True)


def versions(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return {distribution: version} as an environment has them."""
    code = "import json, sys; from importlib.metadata import version as v; "
    code += "print(json.dumps({name: v(name) for name in sys.argv[1:]}))"
    command = [str(folder / "bin/python"), "-c", code, *names]
    found: dict[str, str] = json.loads(subprocess.check_output(command))
    return found


def parts() -> list[str]:
    """Return what the two tiers are run by, so that a call cut short loses little."""
    unit = ROOT / "tests/unit"
    found = [p for p in unit.iterdir() if p.is_dir() and any(p.rglob("test_*.py"))]
    found += unit.glob("test_*.py")
    return [str(path.relative_to(ROOT)) for path in (*sorted(found), ROOT / "tests/conformance")]


def run_part(combination: Combination, folder: Path, part: str, processes: str) -> dict[str, Any]:
    """Run a part in an environment; return what pytest counted and the tests that failed."""
    without = () if "experts" in combination.extras else WITHOUT_MM
    command = [str(folder / "bin/python"), "-m", "pytest", "-q", "-n", processes]
    command += ["--dist", "loadfile", "-m", "not heavy", part, *without]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    (folder / f"{part.replace('/', '-')}.log").write_text(done.stdout + done.stderr)
    lines = done.stdout.splitlines()
    counts = {kind: int(number) for number, kind in COUNTED.findall(lines[-1] if lines else "")}
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    if done.returncode not in (0, 1, 5) or not lines:  # 5: the part has no test for this one
        failed.append(f"{part} ended with {done.returncode}: {done.stderr[-300:]}")
    minutes = (time.monotonic() - start) / 60
    return {"part": part, "counts": counts, "failed": failed, "minutes": minutes}


def run_parts(combination: Combination, folder: Path, args: argparse.Namespace) -> str:
    """Run the parts that have not run, as long as there is time; return a line of the table."""
    file, begin = folder / "parts.jsonl", time.monotonic()
    ran = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for part in parts():
        left = args.minutes is None or time.monotonic() - begin < 60 * args.minutes
        if left and part not in {one["part"] for one in ran}:
            ran.append(run_part(combination, folder, part, args.processes))
            with file.open("a") as stream:
                stream.write(json.dumps(ran[-1]) + "\n")
    totals = {kind: sum(one["counts"].get(kind, 0) for one in ran) for kind in KINDS}
    told = ", ".join(f"{number} {kind}" for kind, number in totals.items())
    for line in (line for one in ran for line in one["failed"]):
        print(line, file=sys.stderr)
    told_versions = ", ".join(f"{key} {value}" for key, value in versions(folder, TOLD).items())
    done = f"{len(ran)} of {len(parts())} parts"
    minutes = sum(one["minutes"] for one in ran)
    return f"| {combination.name} | {told_versions} | {done}: {told} | {minutes:.0f} |"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", help="run the combinations whose name has this in it")
    parser.add_argument("--keep", type=Path, help="where the environments stay for another call")
    parser.add_argument("--processes", default="auto", help="of pytest-xdist; 0 is this one")
    parser.add_argument("--minutes", type=float, help="begin no further part after that many")
    return parser.parse_args()


def main() -> int:
    """Run the combinations and print the table."""
    args = parse_arguments()
    print("| combination | versions | unit and conformance | minutes |", flush=True)
    print("|---|---|---|---|", flush=True)
    for combination in COMBINATIONS:
        if args.only and args.only not in combination.name:
            continue
        if not runs(combination.python):
            print(f"| {combination.name} | {combination.python} is not here | | |", flush=True)
            continue
        name = combination.name.replace(", ", "-").replace(" ", "-")
        with tempfile.TemporaryDirectory() as scratch:
            folder = (args.keep or Path(scratch)) / name
            if not (folder / "installed").exists():
                install(combination, folder)
                (folder / "installed").touch()
            print(run_parts(combination, folder, args), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
