"""What one stage's Runner is to do, and the settings that mmengine's is built of.

`schedule` is the short form: it fills in mmengine's settings, and what a config says in mmengine's
own words lies over them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from torch.utils.data import DataLoader

from tove.config.overlay import merged_settings
from tove.config.text import FormattedOnce
from tove.engine.distributed import timeout_of
from tove.engine.hooks import LossCurveHook, ProvenanceHook, ReseedHook
from tove.engine.optimizer import Schedule, optim_wrapper_cfg, param_scheduler_cfg
from tove.engine.preemption import PreemptionHook
from tove.engine.progress import ProgressHook
from tove.engine.sharding import SHARD

__all__ = ["RunPlan", "runner_settings", "shards"]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a Runner is to do.

    Args:
        folder: where it writes.
        model: the module, built and loaded.
        seed: of the data order and of every step.
        meta: entries for the meta of its checkpoints.
        schedule: of the training; None only evaluates.
        train_dataloader: built; needed with a schedule.
        test_dataloader: built; None evaluates nothing.
        evaluator: metrics' configs, for test and validation.
        val_dataloader: built; for evaluations during training.
        distributed: whether a process group is there.
        amp: mixed precision.
        unused_parameters: whether a step may leave trained parameters out of its graph.
        resume: go on from the folder's last checkpoint if there is one.
        settings: in mmengine's vocabulary (`tove.config.keys.RUNNER_SETTINGS`), over what the
            schedule fills in.
        config: the run's, which trackers and checkpoints keep a copy of.
    """

    folder: Path
    model: Any
    seed: int
    meta: Callable[[], dict[str, Any]]
    schedule: Schedule | None = None
    train_dataloader: DataLoader | None = None
    test_dataloader: DataLoader | None = None
    evaluator: Sequence[Mapping[str, Any]] = ()
    val_dataloader: DataLoader | None = None
    distributed: bool = False
    amp: bool = False
    unused_parameters: bool = False
    resume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def runner_settings(plan: RunPlan) -> dict[str, Any]:
    """Return what mmengine's Runner of a plan is built of, but for what it goes on from."""
    own = dict(plan.settings)
    settings: dict[str, Any] = {
        "model": plan.model,
        "work_dir": str(plan.folder),
        "launcher": "pytorch" if plan.distributed else "none",
        "randomness": {"seed": plan.seed},
        "default_scope": "tove",
        "cfg": FormattedOnce(_cfg(plan)),
        "default_hooks": _default_hooks(plan),
        "custom_hooks": _custom_hooks(plan),
        "log_processor": merged_settings(
            {"type": "LogProcessor", "by_epoch": False, "window_size": 50},
            own.get("log_processor", {}),
        ),
        "visualizer": _visualizer_cfg(plan),
        **{key: own[key] for key in ("env_cfg", "log_level", "auto_scale_lr") if key in own},
    }
    if plan.schedule is not None:
        settings |= _train_settings(plan, plan.schedule)
    if plan.test_dataloader is not None:
        settings["test_dataloader"] = plan.test_dataloader
        settings["test_evaluator"] = list(plan.evaluator)
        settings["test_cfg"] = {}
    return settings


def _cfg(plan: RunPlan) -> dict[str, Any]:
    """Return what the Runner's `cfg` says; of it MLflow's backend looks for the folder."""
    here = {"work_dir": str(plan.folder), "model_wrapper_cfg": _wrapper_cfg(plan)}
    return {**plan.config, **here}


def shards(plan: RunPlan) -> bool:
    """Tell whether a plan's training shards its model over the processes."""
    own = plan.settings.get("model_wrapper_cfg") or {}
    return bool(plan.distributed and own.get("type") == SHARD and plan.schedule is not None)


def _train_settings(plan: RunPlan, schedule: Schedule) -> dict[str, Any]:
    own = plan.settings
    train_cfg = {"type": "StepsTrainLoop", "max_iters": schedule.steps}
    if schedule.val_interval and plan.val_dataloader is not None:
        train_cfg["val_interval"] = schedule.val_interval
    settings: dict[str, Any] = {
        "train_dataloader": plan.train_dataloader,
        "train_cfg": {**train_cfg, **own.get("train_cfg", {})},
        "optim_wrapper": optim_wrapper_cfg(schedule, plan.amp, own.get("optim_wrapper")),
        "param_scheduler": own.get("param_scheduler", param_scheduler_cfg(schedule)),
    }
    if "val_interval" in settings["train_cfg"] and plan.val_dataloader is not None:
        settings["val_dataloader"] = plan.val_dataloader
        settings["val_evaluator"] = list(plan.evaluator)
        settings["val_cfg"] = {}
    return settings


def _default_hooks(plan: RunPlan) -> dict[str, Any]:
    schedule = plan.schedule
    interval = _log_interval(schedule) if schedule else 50
    hooks: dict[str, Any] = {
        "runtime_info": {"type": "DeferredRuntimeInfoHook"},
        "logger": {
            "type": "LoggerHook",
            "interval": interval,
            "interval_exp_name": 10**9,
            "ignore_last": False,
            "log_metric_by_epoch": False,
        },
        "checkpoint": None,
    }
    if schedule is None:
        return hooks
    hooks["checkpoint"] = {
        "type": "AtomicCheckpointHook",
        "interval": schedule.checkpoint_interval,
        "max_keep_ckpts": schedule.keep_checkpoints,
    }
    return merged_settings(hooks, plan.settings.get("default_hooks", {}))


def _log_interval(schedule: Schedule) -> int:
    """Return the steps between lines on the console; a short training has a few lines as well."""
    return min(schedule.log_interval, max(1, schedule.steps // 5))


def _custom_hooks(plan: RunPlan) -> list[Any]:
    if plan.schedule is None:
        return [ProgressHook()]
    hooks = _default_hooks(plan)
    saves = hooks["checkpoint"] or {}
    every = saves.get("interval", plan.schedule.checkpoint_interval)
    interval = math.gcd((hooks["logger"] or {}).get("interval", every), every)
    curve = LossCurveHook(interval=interval)
    own = list(plan.settings.get("custom_hooks", ()))
    provenance = ProvenanceHook(plan.meta, plan.amp)
    hooks_of_ours = [ReseedHook(plan.seed), curve, provenance, ProgressHook()]
    return [*hooks_of_ours, PreemptionHook(curve, timeout_of(plan.settings)), *own]


def _visualizer_cfg(plan: RunPlan) -> dict[str, Any]:
    if plan.schedule is None:
        return {"type": "NumbersFirstVisualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    own = dict(plan.settings.get("visualizer") or {})
    return {"type": "NumbersFirstVisualizer", "vis_backends": backends, **own}


def _wrapper_cfg(plan: RunPlan) -> dict[str, Any] | None:
    """Return what wraps the model on several processes; on a CPU DDP must not be told a device."""
    own = plan.settings.get("model_wrapper_cfg")
    if not plan.distributed:
        return None
    cfg: dict[str, Any] = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": plan.unused_parameters,
    }
    if get_device() == "cpu":
        cfg["device_ids"] = None
    if own and own.get("type", cfg["type"]) != cfg["type"]:
        return dict(own)
    return merged_settings(cfg, own or {})
