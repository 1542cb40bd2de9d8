"""From the command to the end of the first training step, over the imports that it cannot avoid.

    python benchmarks/start_up.py

Processor time of fresh interpreters: `tools/train.py` with one step of ToVE's transfer stage on a
world that is there already, and `import torch, transformers, mmengine`. What the stage does after
its step (evaluation on eight samples, writing) is in it.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import frame
from frame import ROOT, Claim

SECONDS, FACTOR = 1.0, 1.1  # at most so many more than that many times the imports
CONFIG = """
_base_ = [{base!r}]
data_root = {data!r}
scenes = dict(data_root=data_root, train=8, unlabelled=2, val=8, test=8, seed=0)
schedule = dict(steps=1, lr=2e-3, warmup=0)
test_dataloader = dict(dataset=dict(_delete_=True, type="VSRStatements", test_mode=True,
    ann_file="annotations/statements_val.jsonl", img_dir="images", max_samples=8))
test_evaluator = [dict(type="StatementAccuracy")]
stages = [dict(type="TrainStage", name="transfer", row="tove")]
"""


def used(arguments: list[str], cwd: Path) -> float:
    """Return the processor's seconds of a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(frame.PATHS)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode()[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = frame.parser(__doc__).parse_args(argv)
    rounds = args.rounds or (1 if args.short else 5)
    base = str(ROOT / "configs/tiny/tove-tiny_scenes.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "start_up.py"
        config.write_text(CONFIG.format(base=base, data=str(folder / "world")))
        train = [str(ROOT / "tools/train.py"), str(config), "--work-dir"]
        imports = ["-c", "import torch, transformers, mmengine"]
        if not args.short:
            used([*train, str(folder / "first")], folder)  # writes the world
        times = [
            (used([*train, str(folder / f"work{turn}")], folder), used(imports, folder))
            for turn in range(rounds)
        ]
    above = [ours - FACTOR * plain for ours, plain in times]
    claims = [
        Claim(f"start-up less {FACTOR} times the imports", above, SECONDS, unit="s"),
        Claim("start-up / the imports", [ours / plain for ours, plain in times]),
    ]
    title = "from the command to the first step, `import torch, transformers, mmengine` beside it"
    frame.write("start_up", title, claims, args)


if __name__ == "__main__":
    main()
