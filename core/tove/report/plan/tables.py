"""A plan as tables for the console, and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table

from tove.atomic_io import write_text
from tove.engine.plan.results import Plan, StagePlan

__all__ = ["cache_table", "part_table", "remarks", "run_table", "write_json"]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    table.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _figures(number: float | None) -> str:
    """Write bytes in GB, or operations in 10^9, in three figures or to a tenth."""
    if number is None:
        return "-"
    return f"{number / 1e9:,.1f}" if number >= 1e11 else f"{number / 1e9:.3g}"


def part_table(plan: StagePlan) -> Table:
    """Lay a stage's model out by part."""
    title = f"{plan.name}: {plan.model}"
    table = _table(title, "part", "parameters", "trainable", "weights GB", "GFLOPs an image")
    for part in plan.parts:
        counts = (f"{part.parameters:,}", f"{part.trainable:,}", _figures(part.weight_bytes))
        shown = counts if part.parameters or not part.problem else ("not known", "-", "not known")
        table.add_row(part.name, *shown, _figures(part.flops))
    weights = sum(part.weight_bytes for part in plan.parts)
    table.add_section()
    totals = (f"{plan.parameters:,}", f"{plan.trainable:,}", _figures(weights))
    table.add_row("in all", *totals, _figures(plan.forward_flops))
    return table


def run_table(plan: Plan) -> Table:
    """Lay the trainings out: steps, operations, memory, time."""
    heads = ["steps", "batch", "images", "GFLOPs a step and image", "cached", "GB a device"]
    heads += ["GB sharded"] * (plan.gpus > 1) + ["hours"]
    table = _table(f"Trainings, {plan.gpus} process{'es' * (plan.gpus > 1)}", "stage", *heads)
    for stage in plan.stages:
        memory = None if stage.memory is None else stage.memory.total
        table.add_row(
            stage.name,
            f"{stage.steps:,}",
            f"{stage.batch_size:,}",
            f"{stage.images:,}",
            _figures(stage.step_flops),
            _figures(stage.cached_step_flops),
            _figures(memory),
            *[_figures(stage.memory_shard)] * (plan.gpus > 1),
            "-" if stage.seconds is None else f"{stage.seconds / 3600:,.2f}",
        )
    return table


def cache_table(plan: Plan) -> Table:
    """Lay the sizes of a token cache out, by codec."""
    title = f"Frozen tokens of {plan.images:,} images, GB"
    slots = list(plan.caches[0].entry_bytes)
    table = _table(title, "codec", *slots, "in all")
    for cache in plan.caches:
        each = (_figures(size * plan.images) for size in cache.entry_bytes.values())
        table.add_row(cache.codec, *each, _figures(cache.total_bytes))
    return table


def remarks(plan: Plan) -> Iterator[str]:
    """Say what the numbers rest on, and what is not in them."""
    for stage in plan.stages:
        for part in stage.parts:
            if part.problem:
                yield f"{stage.name}: {part.name} {part.problem}"
        if stage.problem:
            what = "its operations and activations are not known"
            yield f"{stage.name}: the step asks for numbers, so {what}: {stage.problem}"
        if stage.memory is not None:
            told = ", ".join(
                f"{name} {_figures(size)}" for name, size in asdict(stage.memory).items()
            )
            yield f"{stage.name}, GB of a device: {told}"
        if stage.timed_by:
            yield f"{stage.name}: hours by {stage.timed_by}"
    first = plan.stages[0]
    yield (
        f"Counted for whole images of {first.vision_tokens} tokens and texts of "
        f"{first.text_tokens}; activations are the tensors of one step, in float32 unless --amp, "
        "without kernels' workspace. Hours are those of the steps alone: data, evaluations and "
        "logging come on top."
    )
    if any(stage.seconds is None for stage in plan.stages):
        yield "No time is told: give --tflops (what one device sustains), or --probe."
    if plan.others:
        yield f"Not in the plan: {', '.join(plan.others)}."
    if plan.gpu_hours is not None:
        price = "" if plan.price is None else f", which cost {plan.price:,.2f}"
        yield f"{plan.gpu_hours:,.2f} device-hours{price}."


def write_json(path: Path, plan: Plan) -> None:
    """Write everything as JSON."""
    stages = [
        {**asdict(stage), "parameters": stage.parameters, "trainable": stage.trainable}
        for stage in plan.stages
    ]
    write_text(path, json.dumps({**asdict(plan), "stages": stages}, indent=1) + "\n")
