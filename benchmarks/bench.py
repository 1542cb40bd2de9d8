"""Run all benchmarks, each in a process of its own, and write docs/benchmarks.md of them.

    make bench

`--render` writes the page of the files that are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import frame
from frame import ROOT

NAMES = (
    "hub_ratio",
    "training_step",
    "fused_gate",
    "mole_layer",
    "preprocessing",
    "mmengine_overhead",
    "detached_merged",
    "ranking",
    "scaling",
    "processes",
    "start_up",
    "listing",
    "coco_captions",
    "conversations",
    "token_cache",
)
PAGE = ROOT / "docs/benchmarks.md"
HEAD = """# Speed, in ratios

`make bench` measures it on your machine in about ten minutes and writes this page; the numbers are
in `benchmarks/out/` as well. A ratio is that of two works that took turns in one run, by the
processor's time on one thread; told are the median of the rounds and, in brackets, their quartiles.
What has no goal is there to be watched. glibc keeps what is freed, as it does in our commands. On a
GPU `make gpu-check PYTHON=python3` measures, at the paper's size; `make gpu-wheels` puts into
`wheels/` what such a machine may lack.

{where}
"""


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page."""
    lines = []
    for result in results:
        path = f"../benchmarks/{result['name']}.py"
        lines += [
            "",
            f"## {result['title'][0].upper()}{result['title'][1:]}",
            "",
            f"[{result['name']}.py]({path})",
            "",
            "| what | measured | goal | |",
            "|---|---|---|---|",
            *map(row, result["claims"]),
        ]
    places = {told(result["machine"]) for result in results} or {"Nothing has been measured yet."}
    return HEAD.format(where="\n".join(sorted(places))) + "\n".join(lines) + "\n"


def row(claim: Mapping[str, Any]) -> str:
    """Return a line of a table."""
    cells = [claim["what"], frame.spread(claim), "", ""]
    if claim["goal"] is not None:
        cells[2:] = [frame.goal(claim), "holds" if claim["holds"] else missed(claim)]
    return f"| {' | '.join(cells)} |"


def missed(claim: Mapping[str, Any]) -> str:
    """Say by how much a goal is missed, and why as far as that is known."""
    by = abs(claim["median"] - claim["goal"])
    unit = f" {claim['unit']}" if claim["unit"] else ""
    return f"missed by {frame.number(by)}{unit}" + (f": {claim['why']}" if claim["why"] else "")


def told(machine: Mapping[str, Any]) -> str:
    """Return a machine in words."""
    versions = f"python {machine['python']}" + (
        f", torch {machine['torch']}" if "torch" in machine else ""
    )
    return f"Measured on {machine['processor']}, {machine['cores']} cores, {versions}."


def main(argv: Sequence[str] | None = None) -> int:
    """Run and render; 1 if a benchmark did not end well."""
    parser = frame.parser(__doc__)
    parser.add_argument("--render", action="store_true", help="only write the page")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="run no others")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    failed = []
    for name in () if args.render else args.only:
        start = time.perf_counter()
        print(f"[bench] {name}", flush=True)
        command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), "--out", str(args.out)]
        done = subprocess.run(command + ["--short"] * args.short, cwd=ROOT, check=False)
        print(f"[bench] {name}: {time.perf_counter() - start:.0f} s", flush=True)
        failed += [name] * bool(done.returncode)
    files = [args.out / f"{name}.json" for name in NAMES]
    results = [json.loads(file.read_text()) for file in files if file.exists()]
    args.page.write_text(table(results))
    if failed:
        print(f"[bench] these did not end well: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
