"""How long `python -m tove_plugins list` takes with 100 installed plugins."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WANTED = 0.5
PLUGIN = """
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, hookimpl

@hookimpl
def tove_experts():
    yield ExpertSpec(name="bench_{i}", task="depth", factory="bench_{i}_heavy:Expert",
                     tokens=TokenSpec(width=64, grid=(8, 8)),
                     image=ImageSpec(size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3))
"""


def install(folder: Path, count: int) -> None:
    """Writes modules with the metadata that an installed plugin has."""
    for i in range(count):
        (folder / f"bench_{i}.py").write_text(PLUGIN.format(i=i))
        info = folder / f"bench_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bench-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tove.experts]\nbench_{i} = bench_{i}\n")


def cheapest(arguments: list[str], path: str) -> tuple[float, float]:
    """Wall-clock and processor seconds of the quickest of ten fresh interpreters.

    The quickest one is what other programs on the machine have added least to.
    """
    environment = {**os.environ, "PYTHONPATH": path}
    walls, processor = [], []
    for _ in range(10):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(time.perf_counter() - start)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(walls), min(processor)


def main() -> None:
    """Prints the times."""
    ours = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]
    command = ["-m", "tove_plugins", "list"]
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), 100)
        path = os.pathsep.join([*ours, folder])
        for label, arguments, roots in (
            ("the interpreter alone", ["-c", "pass"], path),
            ("list, first-party experts only", command, os.pathsep.join(ours)),
            ("list, with 100 more plugins", command, path),
        ):
            wall, processor = cheapest(arguments, roots)
            print(f"{label:<32} {wall:.3f} s, of which processor {processor:.3f} s")
    print(f"wanted: less than {WANTED} s")


if __name__ == "__main__":
    main()
