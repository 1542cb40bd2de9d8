"""Run the unit and conformance tiers on the versions that pyproject allows, and print a table.

    python scripts/versions.py [--only NAME] [--keep DIR] [--processes N]

Each combination is an environment of its own, made by the Python that its name says; one whose
Python is not on the machine is told and left out. "lowest" takes every dependency that pyproject
names at its lower bound. What has been tried so far: docs/decisions/transformers-versions.md.
"""

import argparse
import json
import os
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
TIERS = ("tests/unit", "tests/conformance")
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
    Combination("3.11, lowest", "python3.11", ("lowest",), ("dev", "experts")),
    Combination(
        "3.11, transformers 4.57", "python3.11", ("transformers==4.57.*",), ("dev", "experts")
    ),
    Combination("3.11, transformers 5", "python3.11", NEWEST, ("dev", "maps")),
    Combination("3.12, transformers 5", "python3.12", NEWEST, ("dev", "maps")),
    Combination("3.13, transformers 5", "python3.13", NEWEST, ("dev", "maps")),
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


def run_tiers(combination: Combination, folder: Path, processes: str) -> str:
    """Run the tiers in an environment, give pytest's closing line."""
    without = () if "experts" in combination.extras else WITHOUT_MM
    command = [str(folder / "bin/python"), "-m", "pytest", "-q", "-n", processes]
    command += ["--dist", "loadfile", "-m", "not heavy", *TIERS, *without]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    (folder / "pytest.log").write_text(done.stdout + done.stderr)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", help="run the combinations whose name has this in it")
    parser.add_argument("--keep", type=Path, help="where the environments stay for another call")
    parser.add_argument("--processes", default="auto", help="of pytest-xdist")
    return parser.parse_args()


def main() -> int:
    """Run the combinations and print the table."""
    args = parse_arguments()
    print("| combination | versions | unit and conformance | minutes |", flush=True)
    print("|---|---|---|---|", flush=True)
    for combination in COMBINATIONS:
        if args.only and args.only not in combination.name:
            continue
        if shutil.which(combination.python) is None:
            print(f"| {combination.name} | {combination.python} is not here | | |", flush=True)
            continue
        name = combination.name.replace(", ", "-").replace(" ", "-")
        with tempfile.TemporaryDirectory() as scratch:
            folder = (args.keep or Path(scratch)) / name
            if not folder.exists():
                install(combination, folder)
            start = time.monotonic()
            result = run_tiers(combination, folder, args.processes)
            minutes = (time.monotonic() - start) / 60
            told = ", ".join(f"{key} {value}" for key, value in versions(folder, TOLD).items())
        print(f"| {combination.name} | {told} | {result} | {minutes:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
