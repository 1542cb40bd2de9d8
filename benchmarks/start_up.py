"""From the command to the end of the first training step, over the imports that it cannot avoid.

    python benchmarks/start_up.py

Processor time of fresh interpreters, which they tell themselves: `tools/train.py` at the end of the
first step of ToVE's transfer stage, on a world that is there already, and at the end of `import
torch, transformers, mmengine`. "the libraries' part" imports what every training by them does: a
model class of transformers, which brings scipy, torch's compiler and accelerate, mmengine's Runner,
and an optimiser's step.
"""

from __future__ import annotations

import os
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
custom_imports = dict(imports=["first_step"])
custom_hooks = [dict(type="FirstStep")]
data_root = {data!r}
scenes = dict(data_root=data_root, train=8, unlabelled=2, val=8, test=8, seed=0)
schedule = dict(steps=1, lr=2e-3, warmup=0)
test_dataloader = dict(dataset=dict(_delete_=True, type="VSRStatements", test_mode=True,
    ann_file="annotations/statements_val.jsonl", img_dir="images", max_samples=8))
test_evaluator = [dict(type="StatementAccuracy")]
stages = [dict(type="TrainStage", name="transfer", row="tove")]
"""
TOLD = 'import time\nopen("seconds", "w").write(str(time.process_time()))\n'
HOOK = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class FirstStep(Hook):
    def after_train_iter(self, *args, **kwargs):
        import time
        open("seconds", "w").write(str(time.process_time()))
"""
IMPORTS = f"import torch, transformers, mmengine\n{TOLD}"
LIBRARIES = f"""
import mmengine.runner, torch, transformers
from transformers import CLIPVisionModel
layer = torch.nn.Linear(1, 1)
layer(torch.ones(1)).backward()
torch.optim.AdamW(layer.parameters()).step()
{TOLD}"""


def used(arguments: list[str], cwd: Path) -> float:
    """Return the processor's seconds that a fresh interpreter told in its folder."""
    paths = [*frame.PATHS, str(cwd)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode()[-2000:])
    return float((cwd / "seconds").read_text())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = frame.parser(__doc__).parse_args(argv)
    rounds = args.rounds or (1 if args.short else 4)
    base = str(ROOT / "configs/tiny/tove-tiny_scenes.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "start_up.py"
        config.write_text(CONFIG.format(base=base, data=str(folder / "world")))
        (folder / "first_step.py").write_text(HOOK)
        train = [str(ROOT / "tools/train.py"), str(config), "--work-dir"]
        if not args.short:
            used([*train, str(folder / "first")], folder)  # writes the world
        times = [
            (
                used([*train, str(folder / f"work{turn}")], folder),
                used(["-c", IMPORTS], folder),
                used(["-c", LIBRARIES], folder),
            )
            for turn in range(rounds)
        ]
    above = [ours - FACTOR * plain for ours, plain, _ in times]
    why = "a model class of transformers and an optimiser alone take most of it, see the next row"
    claims = [
        Claim(f"start-up less {FACTOR} times the imports", above, SECONDS, unit="s", why=why),
        Claim("the libraries' part less the same", [b - FACTOR * a for _, a, b in times], unit="s"),
        Claim("start-up / the libraries' part", [ours / part for ours, _, part in times]),
        Claim("start-up / the imports", [ours / plain for ours, plain, _ in times]),
    ]
    title = "from the command to the first step, `import torch, transformers, mmengine` beside it"
    frame.write("start_up", title, claims, args)


if __name__ == "__main__":
    main()
