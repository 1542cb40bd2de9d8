"""What a token cache's codecs cost in score on the tiny world, beside what they lose and take.

    python scripts/codec_scores.py WORK_DIR [--seeds 1 2 3] [--steps 500] [--codecs fp32 int8 ...]

For each seed (scenes, initial weights, order of the data) a world is rendered, and for each codec
its tokens are kept and the stage `transfer` of the demo's config is trained and scored from them.
fp32 is live training to the bit, so gains are over it, paired by seed. `pool` is none of the codecs
here: the tiny experts' grid is the encoder's own. What is there is kept, and a run goes on.

Told, and written to WORK_DIR/codec_scores.json: bytes of an image over all networks; the share of
the tokens' variance that is lost on the images a codec was fitted to and on others, the mean over
the networks; accuracy on statements and CIDEr, means over the seeds.
"""

import argparse
import json
import runpy
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]

CONFIG = ROOT / "configs/tiny/tove-tiny_scenes.py"
CODECS = ("fp32", "bf16", "int8", "pca32+bf16", "pca16+int8", "pca8+int8", "pca4+int8")
SCORES = ("vsr/accuracy", "caption/CIDEr")
RUN = """_base_ = [{config!r}]
stages = [dict(type="TrainStage", name="transfer", row="tove")]
"""


def settings(folder: Path, seed: int, codec: str, given: Sequence[str]) -> list[str]:
    """Return the settings of a seed's runs as --cfg-options has them."""
    world = folder / "scenes"
    cache = {"dir": str(folder / "tokens"), "mode": "read", "codec": codec}
    return [
        f"seed={seed}",
        f"data_root={world}",
        f"scenes.data_root={world}",
        f"scenes.seed={seed}",
        "scenes.unlabelled=20",  # no stage looks at them
        f"model.token_cache={cache}",
        *given,
    ]


def run(folder: Path, seed: int, codec: str, given: Sequence[str]) -> dict[str, Any]:
    """Extract, train and score; return what one line of the table is made of."""
    from tove import cli

    folder.mkdir(parents=True, exist_ok=True)
    config, work = folder / "codec_scores.py", folder / codec.replace("+", "-")
    config.write_text(RUN.format(config=str(CONFIG)))
    options = ["--cfg-options", *settings(folder, seed, codec, given)]
    if not (work / "results.json").exists():
        for name, own in (("cache", []), ("train", ["--work-dir", str(work), "--resume"])):
            tool = runpy.run_path(str(ROOT / "tools" / f"{name}.py"))
            if getattr(cli, name)(tool["parse_args"]([str(config), *own, *options])):
                raise SystemExit(f"{name} of {codec} with seed {seed} failed")
    (row,) = json.loads((work / "results.json").read_text())
    return {"seed": seed, "codec": codec, **kept(folder / "tokens", codec), **scores(row)}


def scores(row: dict[str, Any]) -> dict[str, float]:
    """Return the scores of a row of results."""
    return {name: row["metrics"][name]["value"] for name in SCORES}


def kept(folder: Path, codec: str) -> dict[str, float]:
    """Return bytes of an image and mean losses of the networks' tokens with a codec."""
    from tove.backbones.feature_cache.card import read_card
    from tove.engine.cache_tools import codec_of

    tables = [t for t in read_card(folder)["tables"].values() if t["codec"] == codec]
    losses = {
        name: statistics.mean(table["errors"][name] for table in tables)
        for name in ("fitted", "held_out")
    }
    return {"bytes": sum(codec_of(table).entry_bytes for table in tables), **losses}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Lay the runs out, one line a codec, as Markdown."""
    first = {run["seed"]: run for run in found if run["codec"] == "fp32"}
    head = (
        "codec",
        "KB an image",
        "lost, fitted",
        "lost, held out",
        "accuracy",
        "over fp32",
        "CIDEr",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for codec in dict.fromkeys(run["codec"] for run in found):
        runs = [run for run in found if run["codec"] == codec]
        gains = [r[SCORES[0]] - first[r["seed"]][SCORES[0]] for r in runs if r["seed"] in first]
        cells = (
            f"`{codec}`",
            f"{runs[0]['bytes'] / 1e3:.1f}",
            *(f"{statistics.mean(r[name] for r in runs):.1e}" for name in ("fitted", "held_out")),
            _mean([r[SCORES[0]] for r in runs], 3),
            _mean(gains, 3) if gains else "",
            _mean([r[SCORES[1]] for r in runs], 2),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run every seed and codec, and tell."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--codecs", nargs="+", default=list(CODECS))
    parser.add_argument("--steps", type=int, help="of each training (default: the config's)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    given = [*args.cfg_options, *([f"schedule.steps={args.steps}"] if args.steps else [])]
    found = []
    for seed in args.seeds:
        for codec in args.codecs:
            folder = args.work_dir.resolve() / f"seed-{seed}"
            found.append(run(folder, seed, codec, given))
            text = json.dumps(found, indent=1) + "\n"
            (args.work_dir / "codec_scores.json").write_text(text)
    print(table(found))


if __name__ == "__main__":
    main()
