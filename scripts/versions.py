"""Run the unit and conformance tiers on the versions that pyproject allows, and print a table.

    python scripts/versions.py [--only NAME] [--keep DIR]

Each combination is an environment of its own, made by the Python that its name says; one whose
Python is not on the machine is told and left out. What has
been tried so far: docs/decisions/transformers-versions.md.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIERS = ("tests/unit", "tests/conformance")
# What the tests of the experts' libraries need is left out where these do not run.
WITHOUT_MM = ("--ignore=tests/unit/experts/test_openmmlab.py",)


@dataclass(frozen=True)
class Combination:
    """One environment.

    Attributes:
        name: in the table.
        python: the interpreter.
        pins: requirements beside the project's own.
        extras: of the project.
    """

    name: str
    python: str
    pins: tuple[str, ...]
    extras: str = "dev"


COMBINATIONS = (
    Combination("3.11, lowest", "python3.11", ("transformers==4.56.*",), "dev,experts"),
    Combination("3.11, transformers 4.57", "python3.11", ("transformers==4.57.*",), "dev,experts"),
    Combination("3.11, transformers 5", "python3.11", ("transformers>=5,<6",)),
    Combination("3.12, transformers 5", "python3.12", ("transformers>=5,<6",)),
    Combination("3.13, transformers 5", "python3.13", ("transformers>=5,<6",)),
)


def run(combination: Combination, folder: Path) -> str:
    """Make an environment, run the tiers in it, and give pytest's closing line."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([combination.python, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        project = f"{ROOT}[{combination.extras}]"
        subprocess.run([*install, "-e", project, *combination.pins], check=True)
    without = () if "experts" in combination.extras else WITHOUT_MM
    command = [str(python), "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile"]
    done = subprocess.run(
        [*command, *TIERS, *without], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", help="run the combinations whose name has this in it")
    parser.add_argument("--keep", type=Path, help="where the environments stay for another call")
    return parser.parse_args()


def main() -> int:
    """Run the combinations and print the table."""
    args = parse_arguments()
    print("| combination | unit and conformance | minutes |\n|---|---|---|", flush=True)
    for combination in COMBINATIONS:
        if args.only and args.only not in combination.name:
            continue
        if shutil.which(combination.python) is None:
            print(f"| {combination.name} | {combination.python} is not here | |", flush=True)
            continue
        start = time.monotonic()
        name = combination.name.replace(", ", "-").replace(" ", "-")
        with tempfile.TemporaryDirectory() as scratch:
            result = run(combination, (args.keep or Path(scratch)) / name)
        minutes = (time.monotonic() - start) / 60
        print(f"| {combination.name} | {result} | {minutes:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
