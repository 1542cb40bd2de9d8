"""The plan of a config: each training's parts, operations, memory, time and price; token caches.

Nothing is downloaded and no weight is read: networks are built on the meta device from their
configs. Only the time of a step asks for more, by the user's choice:

    --tflops    operations of the step / the sustained 10^12 operations a second of one device
    --probe     a few steps are run here, with weights, on made-up images
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tove.backbones.feature_cache.codecs import Codec
from tove.backbones.shapes import shapes_alone
from tove.config.data_sets import most_views
from tove.engine.parts import REST, part_of
from tove.engine.plan.options import PlanOptions, context_of, training_stages
from tove.engine.plan.results import CacheSize, PartPlan, Plan, StagePlan
from tove.engine.plan.shape_step import META, ShapeStep, follow_step, made_up_batch, place_experts
from tove.engine.plan.timing import seconds_of
from tove.engine.plan.training import PlannedTraining
from tove.engine.stages.context import StageContext
from tove.registry import SCOPE

__all__ = ["counts_by_part", "make_plan", "shapes_of"]

_PCA = 256


def make_plan(cfg: Config, options: PlanOptions) -> Plan:
    """Return the plan of a checked config.

    Raises:
        ConfigError: no stage trains, or has that name; or the probe lacks weights.
    """
    init_default_scope(SCOPE)
    shapes = _without_places(cfg)
    planned = []
    for stage in training_stages(shapes, options.stage):
        planned.append(_plan_stage(cfg, shapes, stage, options))
    draws = max(plan.images for plan, _ in planned)  # of views, where images have several
    views = options.images * most_views(shapes) if options.images else draws
    model = max((model for _, model in planned), key=lambda model: len(_sources(model)))
    seconds = [plan.seconds for plan, _ in planned]
    hours = None
    if None not in seconds:
        hours = sum(s for s in seconds if s is not None) / 3600 * options.gpus
    names = [plan.name for plan, _ in planned]
    return Plan(
        stages=[plan for plan, _ in planned],
        others=[entry["name"] for entry in cfg.stages if entry["name"] not in names],
        images=views,
        caches=_caches(model, views),
        gpus=options.gpus,
        gpu_hours=hours,
        price=None if hours is None or options.price is None else hours * options.price,
    )


def _without_places(cfg: Config) -> Config:
    """Return the config without what only a run with weights needs: places, weights to start from.

    Experts' devices need not be here either.
    """
    cfg = deepcopy(cfg)
    cfg.model.pop("init_from", None)
    for expert in cfg.model.get("experts", {}).values():
        expert.pop("device", None)
    return cfg


def _plan_stage(
    cfg: Config,
    shapes: Config,
    stage: Any,  # noqa: ANN401 - a stage
    options: PlanOptions,
) -> tuple[StagePlan, Any]:
    context = context_of(shapes, META)
    planned, problems = shapes_of(context, stage)
    model = planned.model
    batch_size = int(shapes[planned.loader].get("batch_size", 1))
    counts = counts_by_part(model)
    step, problem = _followed(context, stage, planned, batch_size, options)
    parts = _parts(counts, step, batch_size, problems)
    flops = _step_flops(model, parts, step, batch_size)
    seconds, timed_by = seconds_of(cfg, stage, planned.schedule, batch_size, options, flops)
    inner = getattr(model, "teacher", model)
    rows, columns = inner.encoder.grid
    plan = StagePlan(
        name=stage.name,
        model=type(model).__name__,
        steps=planned.schedule.steps,
        batch_size=batch_size,
        images=planned.schedule.steps * batch_size * options.gpus,
        vision_tokens=rows * columns,
        text_tokens=_text_tokens(inner, options.words),
        parts=parts,
        forward_flops=None if step is None else sum(step.forward.values()) // batch_size,
        step_flops=flops[0],
        cached_step_flops=flops[1],
        memory=None if step is None else step.memory,
        memory_shard=None if step is None else step.memory.shard(options.gpus),
        seconds=seconds,
        timed_by=timed_by,
        problem=problem,
    )
    return plan, model


def shapes_of(
    context: StageContext,
    stage: Any,  # noqa: ANN401 - a stage
) -> tuple[PlannedTraining, dict[str, str]]:
    """Return what a stage trains, in shapes alone, and why an expert could not be built, by slot.

    Args:
        context: on the meta device.
        stage: that trains.
    """
    with shapes_alone():
        planned: PlannedTraining = stage.planned(context)
    return planned, place_experts(planned.model, context.image_size)


def _followed(
    context: StageContext,
    stage: Any,  # noqa: ANN401 - a stage
    planned: PlannedTraining,
    batch_size: int,
    options: PlanOptions,
) -> tuple[ShapeStep | None, str]:
    """Follow a step of shapes; a method may ask for numbers that are not there."""
    settings = context.runner_settings(getattr(stage, "runner", {}))
    dtype = torch.bfloat16 if options.amp else None
    batch = made_up_batch(batch_size, context.image_size, options.words, context.device)
    try:
        own = settings.get("optim_wrapper")
        return follow_step(planned.model, *batch, planned.schedule, own, dtype), ""
    except (NotImplementedError, RuntimeError) as error:
        return None, " ".join(str(error).split())


def _text_tokens(model: Any, words: int) -> int:  # noqa: ANN401 - a method's
    """Return the tokens of the made-up text."""
    if not hasattr(model.language, "num_tokens"):
        return words  # research code
    _, (sample,) = made_up_batch(1, 1, words, META)
    tokens: int = model.language.num_tokens({**sample, "candidates": [sample["target"]]})
    return tokens


def counts_by_part(model: Any) -> dict[str, list[int]]:  # noqa: ANN401 - a method's
    """Return parameters, those that train, and bytes by part; a shared one is the first's."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = counts.setdefault(part_of(model, name), [0, 0, 0])
        part[0] += parameter.numel()
        part[1] += parameter.numel() * parameter.requires_grad
        part[2] += parameter.numel() * parameter.element_size()
    return counts


def _parts(
    counts: Mapping[str, list[int]],
    step: ShapeStep | None,
    batch_size: int,
    problems: Mapping[str, str],
) -> list[PartPlan]:
    """Return the parts in the model's order, what is in none of them last."""
    forward = {} if step is None else dict(step.forward)
    named = [*counts, *(part for part in forward if part not in counts and forward[part])]
    told = {f"experts.{slot}": why for slot, why in problems.items()}
    named += [part for part in told if part not in named]
    parts = []
    for part in sorted(named, key=lambda part: part == REST):
        parameters, trainable, size = counts.get(part, (0, 0, 0))
        flops = None if step is None or part in told else forward.get(part, 0) // batch_size
        parts.append(PartPlan(part, parameters, trainable, size, flops, told.get(part, "")))
    return parts


def _step_flops(
    model: Any,  # noqa: ANN401 - a method's
    parts: Sequence[PartPlan],
    step: ShapeStep | None,
    batch_size: int,
) -> tuple[int | None, int | None]:
    """Return the operations of a step for one image, and those where frozen tokens are known."""
    if step is None:
        return None, None
    flops = step.flops // batch_size
    if getattr(model, "needs_pixels", True):
        return flops, None
    frozen = [part for part in parts if part.name == "encoder" or "experts." in part.name]
    return flops, flops - sum(part.flops or 0 for part in frozen)


def _sources(model: Any) -> Mapping[str, Any]:  # noqa: ANN401 - a method's
    return getattr(getattr(model, "teacher", model), "sources", {})


def _caches(model: Any, views: int) -> list[CacheSize]:  # noqa: ANN401 - a method's
    """Return what the tokens of a model's frozen networks take, by codec."""
    sources, grid = _sources(model), getattr(model, "teacher", model).encoder.grid
    found = []
    for text in ("fp32", "bf16", "pool+bf16", "pool+int8", f"pool+pca{_PCA}+int8"):
        entries = {}
        for slot, source in sources.items():
            narrow = source.width <= _PCA and "pca" in text
            own = text.replace(f"pca{_PCA}+", "") if narrow else text
            entries[slot] = Codec(own, source, grid).entry_bytes
        found.append(CacheSize(text, entries, sum(entries.values()) * views))
    return found
