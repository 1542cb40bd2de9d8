"""What a training step takes, by part: the medians of the steps that were measured."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from tove.engine.part_times import FILE
from tove.report.page import Section, Table, section
from tove.report.report_data import Material

__all__ = ["part_times_section"]

Lines = Sequence[dict[str, Any]]


@section(75)
def part_times_section(material: Material) -> Section | None:
    """Lay the parts of each measured training's step out; None where none was measured."""
    rows: list[list[str]] = []
    notes = []
    for entry in material.context.cfg.stages:
        path = material.context.folder(entry["name"]) / FILE
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        if lines:
            told = [json.loads(line) for line in lines]
            rows += _rows(entry["name"], told)
            notes.append(_note(entry["name"], told))
    if not rows:
        return None
    table = Table(["stage", "what", "ms", "share of the step"], rows, (2, 3))
    return Section("part-times", "What a training step takes", notes, table)


def _median(lines: Lines, name: str) -> float:
    return statistics.median(line[name] for line in lines)


def _rows(stage: str, lines: Lines) -> list[list[str]]:
    step = _median(lines, "step_ms")
    names = dict.fromkeys(part for line in lines for part in line["parts"])
    parts = {n: statistics.median(line["parts"].get(n, 0.0) for line in lines) for n in names}
    rest = statistics.median(line["step_ms"] - sum(line["parts"].values()) for line in lines)
    told = {f"{part}, forwards": ms for part, ms in parts.items()}
    told |= {"backward pass, optimiser, in between": rest, "the step": step}
    return [[stage, what, f"{ms:.1f}", f"{100 * ms / step:.0f} %"] for what, ms in told.items()]


def _note(stage: str, lines: Lines) -> str:
    mfu = [line["mfu"] for line in lines if "mfu" in line]
    used = f", MFU {100 * statistics.median(mfu):.1f} %" if mfu else ""
    return (
        f"{stage}: medians of {len(lines)} steps; {_median(lines, 'data_ms'):.1f} ms of waiting "
        f"for data before a step, {_median(lines, 'tokens_per_s'):,.0f} tokens read a second, "
        f"{_median(lines, 'peak_memory_mb'):,.0f} MB at the peak{used}."
    )
