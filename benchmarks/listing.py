"""How long listing takes with 100 installed plugins; a ratio to the bare interpreter's start."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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


def seconds(code: str, path: str) -> float:
    """Median wall-clock of five fresh interpreters."""
    environment = {**os.environ, "PYTHONPATH": path}
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Prints the times."""
    ours = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), 100)
        path = os.pathsep.join([*ours, folder])
        bare = seconds("pass", path)
        check = "import tove_plugins, sys; c = tove_plugins.discover(); "
        check += "assert len(c.experts) >= 100; assert 'torch' not in sys.modules"
        listed = seconds(check, path)
    print(f"interpreter alone {bare:.3f} s; with discovery of 100 plugins {listed:.3f} s")
    print(f"ratio {listed / bare:.1f}")


if __name__ == "__main__":
    main()
