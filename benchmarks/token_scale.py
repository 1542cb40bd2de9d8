"""What the scale of one expert's tokens costs, and what `model.token_norm` mends of it.

ToVE on the tiny world with the depth expert's tokens as they are and multiplied by a number:

    python benchmarks/token_scale.py --work-dir /tmp/token_scale
    python benchmarks/token_scale.py --norms none standardise --scales 1 30 --seeds 0 --steps 100

Each run is a process of its own on one thread: the transfer stage, then the gate's mean weight of
each expert, the least of which would be detached first. A finished run's folder is read, not run
again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]
sys.path[:0] = PATHS

from tove.atomic_io import write_text  # noqa: E402 - after the paths
from tove.engine.stages.context import StageContext  # noqa: E402
from tove.methods.tove.gate_ranking import mean_gate_weights  # noqa: E402
from tove.protocols import Row  # noqa: E402
from tove.registry import EXPERTS, STAGES  # noqa: E402
from tove_plugins import build_expert, discover  # noqa: E402

CONFIG = "configs/tiny/tove-tiny_scenes.py"
ENTRIES = [
    {"type": "TrainStage", "name": "transfer", "row": "tove"},
    {"type": "GateWeights", "name": "gate"},
]


@EXPERTS.register_module(name="scaled_tiny_depth", force=True)
class ScaledDepth(nn.Module):
    """The tiny depth expert, its tokens times `scale`."""

    spec = replace(discover().get("tiny_depth").spec, name="scaled_tiny_depth")

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.expert, self.scale = build_expert("tiny_depth"), scale

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens [B, N, D]."""
        return self.scale * self.expert(images)


@STAGES.register_module(force=True)
class GateWeights:
    """Writes what the gate of the transfer stage's model gives each expert on `val_dataloader`."""

    depends_on = ("model", "val_dataloader", "seed")
    repeats = False

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, context: StageContext) -> list[Row]:
        """Measure and write."""
        model, _ = context.load_model(context.model_path("transfer"))
        weights = mean_gate_weights(context, model)
        write_text(context.folder(self.name) / "weights.json", json.dumps(weights))
        return []


def run(work_dir: Path, data: Path, norm: str, scale: float, seed: int, steps: int) -> dict:
    """Train and detach once; give what was measured."""
    folder = work_dir / f"{norm}-x{scale:g}-seed{seed}-{steps}"
    if not (folder / "gate/weights.json").exists():
        settings = {
            "custom_imports": {"imports": [Path(__file__).stem]},
            "data_root": data,
            "scenes": {"data_root": str(data), "seed": seed, "unlabelled": 10},
            "seed": seed,
            "schedule.steps": steps,
            "model.experts.depth": {"type": "scaled_tiny_depth", "scale": scale},
            "model.token_norm": norm,
            "stages": ENTRIES,
        }
        command = [sys.executable, str(ROOT / "tools/train.py"), str(ROOT / CONFIG)]
        command += ["--work-dir", str(folder), "--cfg-options"]
        command += [f"{key}={value}" for key, value in settings.items()]
        paths = [*PATHS, str(Path(__file__).parent)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=work_dir, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    """Give the scores of a finished run, and what the gate made of the depth expert."""
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    weights = json.loads((folder / "gate/weights.json").read_text())
    return {
        "accuracy": rows["tove"]["metrics"]["vsr/accuracy"]["value"],
        "cider": rows["tove"]["metrics"]["caption/CIDEr"]["value"],
        "gate": weights["depth"],
        "detached": sorted(weights, key=weights.get).index("depth") + 1,
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--norms", nargs="+", default=["none", "standardise", "layer_norm"])
    parser.add_argument("--scales", nargs="+", type=float, default=[1, 30])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, help="writes every run's numbers as JSON")
    return parser.parse_args()


def main() -> None:
    """Print a line per normalisation and scale: means over seeds, and each seed's accuracy."""
    args = arguments()
    work_dir = args.work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    print("| token_norm | scale | accuracy | by seed | CIDEr | gate | detached as |")
    print("|---|---|---|---|---|---|---|")
    for norm in args.norms:
        for scale in args.scales:
            runs = [
                run(work_dir, work_dir / f"world{seed}", norm, scale, seed, args.steps)
                for seed in args.seeds
            ]
            found += [
                {"token_norm": norm, "scale": scale, "seed": seed, "steps": args.steps, **numbers}
                for seed, numbers in zip(args.seeds, runs, strict=True)
            ]
            mean = {key: statistics.mean(r[key] for r in runs) for key in runs[0]}
            by_seed = ", ".join(f"{r['accuracy']:.3f}" for r in runs)
            order = ", ".join(str(r["detached"]) for r in runs)
            print(
                f"| {norm} | {scale:g} | {mean['accuracy']:.3f} | {by_seed} "
                f"| {mean['cider']:.2f} | {mean['gate']:.3f} | {order} |",
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
