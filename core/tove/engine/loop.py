"""One stage's mmengine Runner: what trains, on which data, with which hooks, evaluated how.

Everything that a stage trains goes through mmengine's IterBasedTrainLoop and TestLoop; this module
only says what they are built of. `schedule` is the short form: it fills in mmengine's
settings, and what a config says in mmengine's own words lies over them.
"""

import functools
import itertools
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier, get_rank, is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from tove.config.overlay import merged_settings
from tove.engine.checkpoint import check_way_of_training, resumable_checkpoint, shard_of
from tove.engine.distributed import timeout_of, unwrapped
from tove.engine.hooks import LossCurveHook, ProvenanceHook, ReseedHook
from tove.engine.optimizer import Schedule, optim_wrapper_cfg, param_scheduler_cfg
from tove.engine.preemption import PreemptionHook
from tove.engine.progress import ProgressHook
from tove.engine.sharding import SHARD, is_sharded, load_whole, placed, shard

__all__ = ["RunPlan", "StageRunner", "build_stage_runner"]

_built_runners = itertools.count()


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a Runner is to do.

    Args:
        folder: where it writes.
        model: the module, built and loaded.
        seed: of the data order and of every step.
        meta: entries for the meta of its checkpoints.
        schedule: of the training; None only evaluates.
        train_dataloader: built, or mmengine's config; needed with a schedule.
        test_dataloader: built; None evaluates nothing.
        evaluator: metrics' configs, for test and validation.
        val_dataloader: built; for evaluations during training.
        distributed: whether a process group is there.
        amp: mixed precision.
        unused_parameters: whether a step may leave trained parameters out of its graph.
        resume: go on from the folder's last checkpoint if there is one.
        settings: in mmengine's vocabulary (`tove.config.keys.RUNNER_SETTINGS`), over what the
            schedule fills in.
    """

    folder: Path
    model: Any
    seed: int
    meta: Callable[[], dict[str, Any]]
    schedule: Schedule | None = None
    train_dataloader: DataLoader | Mapping[str, Any] | None = None
    test_dataloader: DataLoader | None = None
    evaluator: Sequence[Mapping[str, Any]] = ()
    val_dataloader: DataLoader | None = None
    distributed: bool = False
    amp: bool = False
    unused_parameters: bool = False
    resume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


class _Notices(logging.Filter):
    """Keeps what is of no use to a reader of the console away from it; the log file has it."""

    prefixes = (
        '"FileClient"',
        '"HardDiskBackend"',
        "Saving checkpoint",
        "Load checkpoint",
        "Exp name",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop notices, and the line of all scores: the runner shows those that count."""
        message = record.getMessage()
        scores = message.startswith("Iter(test)") and "eta:" not in message
        return not (scores or message.startswith(self.prefixes))


def _handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
    """End with the reader of the console: logging would tell of it at every line, and go on."""
    if isinstance(sys.exc_info()[1], BrokenPipeError):
        raise  # logging calls this while it handles the error
    logging.Handler.handleError(handler, record)


class StageRunner(Runner):
    """mmengine's Runner, quiet while it is built: the log file has what the console does not.

    Args:
        resumed: a checkpoint that is read already, which it goes on from.
        **settings: mmengine's.
    """

    def __init__(self, resumed: Mapping[str, Any] | None = None, **settings: Any) -> None:  # noqa: ANN401
        self._console: list[logging.Handler] = []
        self._resumed = resumed
        try:
            super().__init__(**settings)
        finally:
            for handler in self._console:
                handler.setLevel(logging.INFO)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:  # noqa: ANN401 - mmengine's
        """Build the logger; its console handler stays silent until the Runner is built."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            is_console = isinstance(handler, logging.StreamHandler)
            if is_console and not isinstance(handler, logging.FileHandler):
                handler.addFilter(_Notices())
                handler.handleError = partial(_handle_error, handler)
                if handler.level <= logging.INFO:
                    self._console.append(handler)
                    handler.setLevel(logging.WARNING)
        return logger

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load the checkpoint that was read when it was found whole, rather than read it again."""
        if self._resumed is None:
            return super().load_checkpoint(filename, *args, **kwargs)
        checkpoint, self._resumed = dict(self._resumed), None
        if "shards" in checkpoint:
            like = next(p for p in self.model.parameters() if isinstance(p, DTensor))
            checkpoint = placed(checkpoint, like)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        load_whole(unwrapped(self.model), checkpoint["state_dict"])
        return checkpoint

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; `FullyShard` shards it in place."""
        if self.distributed and (model_wrapper_cfg or {}).get("type") == SHARD:
            options = {k: v for k, v in (model_wrapper_cfg or {}).items() if k != "type"}
            return shard(model.to(get_device()), **options)
        wrapped: nn.Module = super().wrap_model(model_wrapper_cfg, model)
        return wrapped

    def _init_model_weights(self) -> None:
        """Leave a sharded model alone: mmengine would gather every tensor and send the copies."""
        if not is_sharded(self.model):
            super()._init_model_weights()

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Write a checkpoint; of a sharded model every process writes its own file.

        The main one's is the last: it stands for all of them.
        """
        if not is_sharded(self.model):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        write = functools.partial(Runner.save_checkpoint.__wrapped__, self, out_dir)
        if not is_main_process():
            write(shard_of(Path(filename), get_rank()).name, *args, **kwargs)
        barrier()
        if is_main_process():
            write(filename, *args, **kwargs)

    def _log_env(self, env_cfg: dict) -> None:
        """Leave the environment out: collecting it starts a compiler, for every stage anew."""

    def dump_config(self) -> None:
        """Write no config: the whole one lies in the work folder already."""


def build_stage_runner(plan: RunPlan) -> StageRunner:
    """Build the Runner of a plan.

    Raises:
        CheckpointError: the checkpoint to resume from is damaged, or of another number of processes
            or precision.
        ConfigError: a setting of mmengine's that contradicts the run.
    """
    folder = plan.folder
    if plan.distributed and not _shards(plan):
        # Frozen weights are the same everywhere and may lie on other devices: not DDP's business.
        everything = {n for n, _ in (*plan.model.named_parameters(), *plan.model.named_buffers())}
        ignored = everything - set(plan.model.state_dict())
        plan.model._ddp_params_and_buffers_to_ignore = sorted(ignored)
    part = get_rank() if _shards(plan) else None
    found = resumable_checkpoint(folder, part) if plan.resume else None
    if found is not None:
        check_way_of_training(found[1]["meta"], plan.amp, str(found[0]))
    own = dict(plan.settings)
    settings: dict[str, Any] = {
        "model": plan.model,
        "work_dir": str(folder),
        "resumed": found[1] if found else None,
        "load_from": str(found[0]) if found else None,
        "resume": found is not None,
        "launcher": "pytorch" if plan.distributed else "none",
        "randomness": {"seed": plan.seed},
        "default_scope": "tove",
        "experiment_name": f"{folder.name}-{next(_built_runners)}",
        "cfg": Config({"model_wrapper_cfg": _wrapper_cfg(plan)}),
        "default_hooks": _default_hooks(plan),
        "custom_hooks": _custom_hooks(plan),
        "log_processor": merged_settings(
            {"by_epoch": False, "window_size": 50}, own.get("log_processor", {})
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
    return StageRunner(**settings)


def _shards(plan: RunPlan) -> bool:
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
