"""One stage's mmengine Runner: what trains, on which data, with which hooks, evaluated how.

Everything that a stage trains goes through mmengine's own IterBasedTrainLoop and TestLoop; this
module builds them of what `tove.engine.run_plan` says.
"""

import functools
import itertools
import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from mmengine.dist import barrier, get_rank, is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn
from torch.distributed.tensor import DTensor

from tove.engine.checkpoint import check_way_of_training, resumable_checkpoint, shard_of
from tove.engine.distributed import unwrapped
from tove.engine.run_plan import RunPlan, runner_settings, shards
from tove.engine.sharding import SHARD, is_sharded, load_whole, placed, shard

__all__ = ["StageRunner", "build_stage_runner"]

_built_runners = itertools.count()


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
    sharded = shards(plan)
    if plan.distributed and not sharded:
        # Frozen weights are the same everywhere and may lie on other devices: not DDP's business.
        everything = {n for n, _ in (*plan.model.named_parameters(), *plan.model.named_buffers())}
        ignored = everything - set(plan.model.state_dict())
        plan.model._ddp_params_and_buffers_to_ignore = sorted(ignored)
    part = get_rank() if sharded else None
    found = resumable_checkpoint(plan.folder, part) if plan.resume else None
    if found is not None:
        check_way_of_training(found[1]["meta"], plan.amp, str(found[0]))
    return StageRunner(
        resumed=found[1] if found else None,
        load_from=str(found[0]) if found else None,
        resume=found is not None,
        experiment_name=f"{plan.folder.name}-{next(_built_runners)}",
        **runner_settings(plan),
    )
