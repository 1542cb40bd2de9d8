"""How long `python -m tove_plugins list` takes with 100 installed plugins."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import frame
from frame import Claim

GOAL = 0.5  # seconds
PLUGIN = """
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, hookimpl

@hookimpl
def tove_experts():
    yield ExpertSpec(name="bench_{i}", task="depth", factory="bench_{i}_heavy:Expert",
                     tokens=TokenSpec(width=64, grid=(8, 8)),
                     image=ImageSpec(size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3))
"""


def install(folder: Path, count: int) -> None:
    """Write modules with the metadata that an installed plugin has."""
    for i in range(count):
        (folder / f"bench_{i}.py").write_text(PLUGIN.format(i=i))
        info = folder / f"bench_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bench-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tove.experts]\nbench_{i} = bench_{i}\n")


def run(arguments: list[str], path: str) -> float:
    """Return the processor's seconds of a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": path}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *arguments]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = frame.parser(__doc__).parse_args(argv)
    rounds = args.rounds or (1 if args.short else 9)
    command = ["-m", "tove_plugins", "list"]
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), 2 if args.short else 100)
        ours = os.pathsep.join(frame.PATHS)
        all_of_them = os.pathsep.join([ours, folder])
        works = {
            "alone": (["-c", "pass"], ours),
            "own": (command, ours),
            "all": (command, all_of_them),
        }
        times = {name: [run(*work) for _ in range(rounds)] for name, work in works.items()}
    claims = [
        Claim("list, with 100 more plugins", times["all"], GOAL, unit="s"),
        Claim("list, first-party experts alone", times["own"], unit="s"),
        Claim("with 100 more plugins / without", frame.over(times["all"], times["own"])),
        Claim("the interpreter alone", times["alone"], unit="s"),
    ]
    frame.write("listing", "`list`, in a fresh interpreter, processor time", claims, args)


if __name__ == "__main__":
    main()
