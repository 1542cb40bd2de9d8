"""Record per-step losses and rows of short runs on the tiny world, and compare two records.

A change that should not alter results gives the identical numbers on one machine:

    python scripts/golden.py record NOW.json            of this tree
    python scripts/golden.py compare THEN.json NOW.json [--rtol 1e-3]
    python scripts/golden.py against HEAD~1             records that commit and this tree, compares

Recorded are, by run and stage, the lines of `loss.jsonl`; the rows without what a clock or an
allocator measures; the gates' ranking; and a digest of each export's weights.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED = frozenset({"forward_ms", "peak_memory_mb", "device"})

CONFIG = "configs/tiny/tove-tiny_scenes.py"
SHORT = {
    "scenes.train": 200,
    "scenes.unlabelled": 80,
    "scenes.val": 30,
    "scenes.test": 60,
    "schedule.steps": 24,
    "schedule.warmup": 4,
    "schedule.log_interval": 8,
    "merging.schedule.steps": 12,
    "merging.schedule.warmup": 2,
    "test_dataloader.dataset.datasets.1.max_samples": 20,
}
RUNS: dict[str, dict[str, Any]] = {
    "shipped": {},
    # The other side of each switch that the shipped config leaves at one.
    "switched": {
        "seed": 1,
        "model.gate.top_k": 2,
        "model.gate.noise": 1.0,
        "model.gate.hidden": 16,
        "model.transfer.scale": "learned",
        "model.transfer.zero_init": True,
        "model.expert_dropout": 0.2,
        "model.language.loss_mean": "tokens",
        "merging.model.student": "lora",
        "merging.model.loss": "cosine",
    },
}


def record(tree: Path) -> dict[str, Any]:
    """Run every entry of `RUNS` with the tools of a tree and gather its numbers."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in RUNS.items():
            work, world = Path(folder, name), Path(folder, "world")
            roots = {"data_root": world, "scenes.data_root": world}
            settings = {**SHORT, **options, **roots}
            command = [sys.executable, str(tree / "tools/train.py"), str(tree / CONFIG)]
            command += ["--work-dir", str(work), "--cfg-options"]
            command += [f"{key}={value}" for key, value in settings.items()]
            paths = [str(tree), str(tree / "core"), str(tree / "expert_plugins")]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            }
            print(f"[golden] {name} with {tree}", file=sys.stderr, flush=True)
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{done.stdout[-2000:]}{done.stderr[-2000:]}")
            found[name] = gather(work)
    return found


def gather(work_dir: Path) -> dict[str, Any]:
    """Give the numbers of a finished run's folder."""
    losses = {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(work_dir.glob("*/loss.jsonl"))
    }
    rankings = {
        path.parent.name: json.loads(path.read_text()) for path in work_dir.glob("*/ranking.json")
    }
    exports = {
        str(path.parent.relative_to(work_dir)): _digest(path)
        for path in sorted(work_dir.rglob("model.safetensors"))
    }
    rows = _unmeasured(json.loads((work_dir / "results.json").read_text()))
    return {"losses": losses, "rows": rows, "rankings": rankings, "exports": exports}


def _unmeasured(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {key: _unmeasured(inner) for key, inner in value.items() if key not in MEASURED}
    return [_unmeasured(inner) for inner in value] if isinstance(value, list) else value


def _digest(path: Path) -> str:
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.shape} {tensor.dtype}".encode() + tensor.tobytes())
    return digest.hexdigest()


def differences(then: Any, now: Any, rtol: float = 0.0, place: str = "") -> Iterator[str]:  # noqa: ANN401
    """Yield one line per leaf that differs.

    Args:
        then: a record, or a part of one.
        now: another.
        rtol: relative tolerance of numbers; with one, digests are not compared.
        place: of the part in the record.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in sorted(then.keys() | now.keys()):
            if key not in then or key not in now:
                yield f"{place}.{key}: only {'then' if key in then else 'now'}"
            elif not (rtol and key == "exports"):
                yield from differences(then[key], now[key], rtol, f"{place}.{key}".lstrip("."))
    elif isinstance(then, list) and isinstance(now, list):
        if len(then) != len(now):
            yield f"{place}: {len(then)} entries then, {len(now)} now"
        for index, pair in enumerate(zip(then, now, strict=False)):
            yield from differences(*pair, rtol, f"{place}.{index}")
    elif isinstance(then, float) and isinstance(now, int | float) and rtol:
        if not math.isclose(then, now, rel_tol=rtol, abs_tol=rtol * 1e-2):
            yield f"{place}: {then!r} then, {now!r} now"
    elif then != now:
        yield f"{place}: {then!r} then, {now!r} now"


def against(reference: str) -> int:
    """Record a commit and this tree, and compare them exactly."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(tree), reference], check=True)
        try:
            then = record(tree)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    return report(then, record(ROOT), 0.0)


def report(then: Mapping[str, Any], now: Mapping[str, Any], rtol: float) -> int:
    """Print what differs; give the exit status."""
    found = list(differences(then, now, rtol))
    steps = sum(len(lines) for run in now.values() for lines in run["losses"].values())
    rows = sum(len(run["rows"]) for run in now.values())
    for line in found[:40]:
        print(line)
    told = f"{len(found)} differences" if found else "identical" if not rtol else f"within {rtol}"
    print(f"{steps} steps and {rows} rows: {told}")
    return 1 if found else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the tiny runs, write their numbers")
    recording.add_argument("out", type=Path)
    recording.add_argument("--tree", type=Path, default=ROOT, help="checkout whose code runs")
    comparing = commands.add_parser("compare", help="compare two records")
    comparing.add_argument("then", type=Path)
    comparing.add_argument("now", type=Path)
    comparing.add_argument("--rtol", type=float, default=0.0, help="0 asks for the same bits")
    commands.add_parser("against", help="compare with a commit").add_argument("reference")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says."""
    args = parse_arguments()
    if args.command == "record":
        args.out.write_text(json.dumps(record(args.tree.resolve()), indent=1) + "\n")
        return 0
    if args.command == "compare":
        then, now = json.loads(args.then.read_text()), json.loads(args.now.read_text())
        return report(then, now, args.rtol)
    return against(args.reference)


if __name__ == "__main__":
    raise SystemExit(main())
