"""Measure one model: its scores on a split and its cost, as a row."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn

from tove.accounting import count_parameters, forward_ms
from tove.rows import nested_metrics
from tove.stages.context import Row, StageContext
from tove.training import RunPlan, StageRunner, build_stage_runner

__all__ = ["evaluation_runner", "measure_row"]


def evaluation_runner(
    context: StageContext, stage: str, model: nn.Module, split: str = "test"
) -> StageRunner:
    """Build a Runner that only evaluates; `.test()` may be called as often as wanted."""
    return build_stage_runner(
        RunPlan(
            folder=context.folder(stage),
            model=model,
            seed=context.seed,
            meta=dict,
            test_dataloader=context.evaluation_loader(split),
            evaluator=context.evaluator(),
            distributed=context.distributed,
        )
    )


def measure_row(
    context: StageContext,
    model: nn.Module,
    evaluate: Callable[[], Mapping[str, float]],
    *,
    name: str,
    experts: Sequence[str],
    **entries: Any,  # noqa: ANN401 - JSON values of the row
) -> Row:
    """Evaluate and time a model.

    Args:
        context: the run.
        model: what `evaluate` evaluates.
        evaluate: gives mmengine's flat metrics.
        name: of the row.
        experts: the slots that run.
        entries: training_images, steps and stage.
    """
    inner: nn.Module = model.module if is_model_wrapper(model) else model  # type: ignore[assignment]
    trainable, total = count_parameters(inner)
    return {
        "name": name,
        "experts": list(experts),
        "metrics": nested_metrics(evaluate()),
        "trainable_parameters": trainable,
        "total_parameters": total,
        "forward_ms": round(forward_ms(inner, context.image_size, context.device), 4),
        "seed": context.seed,
        **entries,
    }
