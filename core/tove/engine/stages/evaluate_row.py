"""Measure one model: its scores on a split and its cost, as a row."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import print_log

from tove.atomic_io import write_text
from tove.data.annotations import read_json
from tove.engine.distributed import unwrapped
from tove.engine.gate_summary import noting_gate
from tove.engine.loop import StageRunner, build_stage_runner
from tove.engine.rows import WRITTEN, nested_metrics, reference_of
from tove.engine.run_plan import RunPlan
from tove.engine.stages.context import StageContext
from tove.evaluation import paired_interval
from tove.evaluation.profile.model import measure_cost
from tove.protocols import Role, Row

__all__ = ["evaluation_runner", "item_scores", "measure_row"]

Items = dict[str, dict[str, float]]


def evaluation_runner(
    context: StageContext,
    stage: str,
    model: Any,  # noqa: ANN401 - a method's
    loader: str = "test_dataloader",
) -> StageRunner:
    """Build a Runner that only evaluates; `.test()` may be called as often as wanted."""
    return build_stage_runner(
        RunPlan(
            folder=context.folder(stage),
            model=model,
            seed=context.seed,
            meta=dict,
            test_dataloader=context.evaluation_loader(loader),
            evaluator=context.evaluator(),
            distributed=context.distributed,
        )
    )


def measure_row(
    context: StageContext,
    runner: StageRunner,
    *,
    name: str,
    role: Role,
    experts: Sequence[str],
    reference: str | None = None,
    **entries: Any,  # noqa: ANN401 - JSON values of the row
) -> Row:
    """Evaluate a runner's model, a method's, and measure what it costs.

    The score of every item goes to `items/NAME.json` in the runner's folder, so that two rows can
    be compared on the items that both answered; the row has its gain over its reference's.

    Args:
        context: the run.
        runner: evaluates its model.
        name: of the row.
        role: the part that it plays.
        experts: the slots that run.
        reference: the row that the gain is over; None chooses by role.
        entries: training_images, steps and stage.
    """
    inner = unwrapped(runner.model)
    with noting_gate(inner) as gate:
        metrics = nested_metrics(runner.test())
    items = item_scores(runner)
    shared = gate.told(experts)
    if is_main_process():
        write_text(Path(runner.work_dir) / "items" / f"{name}.json", json.dumps(items) + "\n")
    return {
        "name": name,
        "role": role,
        "model": type(inner).__name__,
        "experts": list(experts),
        "metrics": metrics,
        "gain": _gain(context, role, reference, items),
        **({"gate": shared} if shared else {}),
        **_cost(inner, context),
        "seed": context.seed,
        **entries,
    }


def _cost(model: Any, context: StageContext) -> dict[str, Any]:  # noqa: ANN401 - a method's
    """Measure what a model costs; experts that are known by their tokens alone are left out."""
    absent = model.hub.absent() if hasattr(model, "hub") else []
    for slot in absent:
        what = f"The cost of expert '{slot}' is not counted: its package is not installed."
        print_log(what, logger="current", level=logging.WARNING)
        model.hub.detach(slot)
    try:
        return dict(measure_cost(model, context.image_size, context.device))
    finally:
        for slot in absent:
            model.hub.attach(slot)


def item_scores(runner: StageRunner) -> Items:
    """Return the last evaluation's scores by metric and item; empty on other ranks."""
    found = {}
    for metric in runner.test_evaluator.metrics:
        scores = getattr(metric, "item_scores", {})
        if scores:
            found[f"{metric.prefix}/{metric.item_metric}"] = scores
    return found


def _gain(context: StageContext, role: Role, reference: str | None, items: Items) -> dict[str, Any]:
    """Return the paired gain over the reference's row; empty where there is none."""
    over = reference_of(context.rows, role, reference)
    if over is None:
        return {}
    path = context.folder(over["stage"]) / "items" / f"{over['name']}.json"
    theirs: Items = read_json(str(path), WRITTEN, hint=dict) if path.exists() else {}
    common = [m for m in items if m in theirs and items[m].keys() == theirs[m].keys()]
    gains = {metric: asdict(paired_interval(items[metric], theirs[metric])) for metric in common}
    return {"over": over["name"], **gains} if gains else {}
