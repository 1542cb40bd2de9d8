"""Builds what a stage's training is going to be made of, before any stage trains.

mmengine looks at the arguments of a hook, an optimiser or a scheduler when it builds them, which
for the last stage is after hours, and at some, such as those of `clip_grad`, in the first step.
Here all of them are built as they will be, for the stage's own model, and thrown away.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import Registry
from mmengine.runner.priority import get_priority

from tove import registry
from tove.config.build import or_told
from tove.config.validation import (
    accepted_arguments,
    check_arguments,
    check_known,
    check_value,
    look_up,
)
from tove.engine.quiet import errors_only
from tove.engine.run_plan import RunPlan, runner_settings
from tove.engine.score_names import check_score
from tove.engine.sharding import SHARD, shard

__all__ = ["rehearse_training"]

Settings = Mapping[str, Any]
_GIVEN = ("params", "optimizer", "module")  # by mmengine, and by no config
_NAMES_SCORES = ("save_best", "monitor")  # what mmengine's parts call a score that they go by


def rehearse_training(plan: RunPlan) -> None:
    """Build the parts of a training around its model.

    Raises:
        ConfigError: one of them cannot be built, or goes by a score that is not measured.
    """
    settings, stage = runner_settings(plan), f"stage '{plan.folder.name}': "
    with errors_only():
        parts = [
            *_schedulers(plan, settings, stage),
            *_hooks(plan, settings["default_hooks"], stage),
        ]
    for where, part in parts:
        for key in _NAMES_SCORES:
            names = getattr(part, key, None) or ()
            for name in [names] if isinstance(names, str) else names:
                _check_goes_by(plan, f"{where}.{key}", name)
    _build(registry.LOG_PROCESSORS, settings["log_processor"], f"{stage}log_processor")
    named = {"name": plan.folder.name, "save_dir": str(plan.folder)}
    _build(registry.VISUALIZERS, settings["visualizer"], f"{stage}visualizer", **named)
    loop, where = settings["train_cfg"], f"{stage}train_cfg"
    check_arguments(
        look_up(registry.LOOPS, loop["type"], where), loop, where, ("runner", "dataloader")
    )
    wrapper = plan.settings.get("model_wrapper_cfg") or {}
    if kind := wrapper.get("type"):
        where = f"{stage}model_wrapper_cfg"
        wraps = shard if kind == SHARD else look_up(registry.MODEL_WRAPPERS, kind, where)
        _check_names(wraps, wrapper, where)


def _schedulers(plan: RunPlan, settings: Settings, stage: str) -> Iterator[tuple[str, Any]]:
    """Yield the schedulers with their places, on an optimiser of their own."""
    wrapper = _optim_wrapper(plan.model, settings["optim_wrapper"], f"{stage}optim_wrapper")
    loader: Any = plan.train_dataloader
    given = {"optimizer": wrapper, "epoch_length": len(loader)}
    entries = settings["param_scheduler"]
    for number, entry in enumerate(entries if isinstance(entries, list | tuple) else [entries]):
        where = f"{stage}param_scheduler.{number}"
        yield where, _build(registry.PARAM_SCHEDULERS, entry, where, **given)


def _optim_wrapper(model: Any, settings: Settings, where: str) -> OptimWrapper:  # noqa: ANN401
    def check() -> None:
        optimizer = settings["optimizer"]
        kind = look_up(registry.OPTIMIZERS, optimizer.get("type"), f"{where}.optimizer")
        _check_names(kind, optimizer, f"{where}.optimizer")
        apart = ("constructor", "optimizer", "paramwise_cfg")
        own = {key: value for key, value in settings.items() if key not in apart}
        _check_names(look_up(registry.OPTIM_WRAPPERS, settings["type"], where), own, where)

    wrapper = or_told(partial(build_optim_wrapper, model, dict(settings)), where, check)
    if wrapper.clip_grad_kwargs:
        check_arguments(
            wrapper.clip_func, wrapper.clip_grad_kwargs, f"{where}.clip_grad", ("parameters",)
        )
    return wrapper


def _hooks(plan: RunPlan, default: Settings, stage: str) -> Iterator[tuple[str, Any]]:
    """Yield the hooks that the config has a say in, with their places."""
    entries = {f"{stage}default_hooks.{name}": entry for name, entry in default.items()}
    own = enumerate(plan.settings.get("custom_hooks", ()))
    entries |= {f"{stage}custom_hooks.{number}": entry for number, entry in own}
    for where, entry in entries.items():
        if entry is None:  # leaves a default hook out
            continue
        hook = entry
        if not isinstance(entry, Hook):
            check_value(entry, dict, where)
            own_priority = entry.get("priority", "NORMAL")
            or_told(partial(get_priority, own_priority), f"{where}.priority")
            settings = {key: value for key, value in entry.items() if key != "priority"}
            hook = _build(registry.HOOKS, settings, where)
        if isinstance(hook, EMAHook):  # its average has arguments of its own
            or_told(partial(hook.before_run, SimpleNamespace(model=plan.model)), where)
        yield where, hook


def _check_goes_by(plan: RunPlan, where: str, name: str) -> None:
    """Check that a stage's validation gives a score that something goes by."""
    if plan.val_dataloader is None:
        print_log(
            f"{where} is '{name}', but the stage is not validated while it trains, so it has "
            "nothing to go by; set schedule.val_interval, or leave it out.",
            logger="current",
            level=logging.WARNING,
        )
    elif name != "auto":
        check_score(name, plan.val_dataloader.dataset, plan.evaluator, where)


def _build(kind: Registry, entry: Settings, where: str, **given: Any) -> Any:  # noqa: ANN401
    """Build a part of the config's, as mmengine will."""
    target = look_up(kind, entry.get("type"), where)
    make = partial(kind.build, dict(entry), default_args=given)
    if kind is registry.VISUALIZERS:  # mmengine's would stay behind, as the current one
        own = {key: value for key, value in entry.items() if key not in ("type", "_scope_")}
        make = partial(target, **(given | own))
    return or_told(make, where, lambda: _check_names(target, entry, where))


def _check_names(target: Callable[..., Any], entry: Settings, where: str) -> None:
    """Refuse arguments that a class does not take; their values are its own business."""
    known = accepted_arguments(target)
    if known is not None:
        given = {key: value for key, value in entry.items() if key not in ("type", "_scope_")}
        check_known(given, known - {"type", *_GIVEN}, where)
