"""Writes the table of docs/experts.md from the specs of the experts that come with tove.

python scripts/expert_table.py
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tove_plugins import ExpertSpec

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/experts.md"
BEGIN, END = "<!-- table: scripts/expert_table.py -->\n\n", "\n<!-- end -->\n"
HEADER = ("name", "task", "tokens", "image", "size", "licence", "trained on", "library", "needs")

# No spec says whose model it is: the modules of the factories do.
LIBRARIES = {
    "tove_experts.contrastive": "open_clip",
    "tove_experts.depth": "transformers",
    "tove_experts.detection": "transformers",
    "tove_experts.dino": "transformers",
    "tove_experts.edges": "kornia",
    "tove_experts.normals": "transformers",
    "tove_experts.openmmlab.backbones": "mmpretrain",
    "tove_experts.openmmlab.detectors": "mmdet",
    "tove_experts.segmentation": "transformers",
    "tove_experts.timm_backbone": "timm",
    "tove_experts.tiny": "torch",
    "tove_experts.transformers_backbone": "transformers",
}


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    return argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()


def first_party_specs() -> list[ExpertSpec]:
    """Gives the experts by task, then by name."""
    from tove_plugins import discover

    entries = discover().experts.values()
    specs = [entry.spec for entry in entries if entry.plugin == "builtin"]
    return sorted(specs, key=lambda spec: (spec.task, spec.name))


def table() -> str:
    """Gives the table as Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *(row(spec) for spec in first_party_specs())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def row(spec: ExpertSpec) -> tuple[str, ...]:
    """Gives an expert's cells, in the order of the header."""
    rows, columns = spec.tokens.grid
    tokens = f"{rows} x {columns} x {spec.tokens.width}{', map' * (spec.tokens.kind == 'map')}"
    size, licence, trained_on = "", "", ""
    if spec.weights:
        megabytes = spec.weights.size_mb
        size = f"{megabytes:,.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"
        licence = spec.weights.licence + " (nc)" * (not spec.weights.commercial_use)
        trained_on = spec.weights.trained_on
    return (
        *(f"`{spec.name}`", spec.task, tokens, " x ".join(map(str, spec.image.size))),
        *(size, licence, trained_on, library(spec), needs(spec)),
    )


def library(spec: ExpertSpec) -> str:
    """Tells whose model it is.

    Raises:
        SystemExit: The table above does not know the factory's module.
    """
    module = spec.factory.partition(":")[0]
    if module not in LIBRARIES:
        sys.exit(f"error: LIBRARIES in {Path(__file__).name} does not say what {module} builds on.")
    return LIBRARIES[module]


def needs(spec: ExpertSpec) -> str:
    """Tells what to install that tove does not bring: an extra of its own, or a requirement."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {Requirement(text).name for text in project["dependencies"]}
    extras = {
        Requirement(text).name: f"[{extra}]"
        for extra, texts in project["optional-dependencies"].items()
        if extra != "dev"
        for text in texts
    }
    missing = {text: Requirement(text).name for text in spec.requires}
    told = [f"`{extras.get(name, text)}`" for text, name in missing.items() if name not in base]
    return ", ".join(dict.fromkeys(told))


def main() -> None:
    """Puts the table into the page."""
    parse_arguments()
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
