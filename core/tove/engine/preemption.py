"""What a training does once it is told to go: save, and end."""

import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tove.engine.hooks import AtomicCheckpointHook, LossCurveHook
from tove.errors import Preempted
from tove.registry import HOOKS

__all__ = ["PreemptionHook"]


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Saves and ends the training once the process is told to go: by SIGTERM, or slurm's SIGUSR1.

    The current iteration is finished; losses and checkpoint are written as at a checkpoint's own
    step, so that `--resume` goes on with the same losses. Of several processes all end at the same
    iteration, whichever was told.

    Args:
        curve: whose lines are written first.
        timeout: that the processes of a run wait for each other; None is torch's.
    """

    priority = "LOWEST"  # after the schedulers' step and the checkpoint that may be due
    signals = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, curve: LossCurveHook, timeout: timedelta | None = None) -> None:
        self.curve, self.timeout = curve, timeout
        self._received = 0
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def before_train(self, runner: Runner) -> None:
        """Listen, in the main thread, which alone may."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.signals}
        if runner.world_size > 1:
            self._group = torch.distributed.new_group(timeout=self.timeout, backend="gloo")

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Save and end if any process was told to.

        Raises:
            Preempted: one was.
        """
        number = self._agreed()
        if not number:
            return
        self.after_train(runner)
        self.curve.write(runner)
        for hook in runner.hooks:
            if isinstance(hook, AtomicCheckpointHook):
                hook._save_checkpoint_with_step(runner, runner.iter + 1, meta={})
        name, stage = signal.Signals(number).name, Path(runner.work_dir).name
        raise Preempted(
            f"{name}: the training of stage '{stage}' has ended after step {runner.iter + 1} of "
            f"{runner.max_iters} and is saved; run the same command with --resume to go on.",
            number,
        )

    def after_train(self, runner: Runner) -> None:
        """Leave signals to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: object) -> None:
        self._received = number

    def _agreed(self) -> int:
        """Return a signal that any process has received, else 0.

        On the CPU, by a group of its own: no device is waited for.
        """
        if self._group is None:
            return self._received
        told = torch.tensor(self._received)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self._group)
        return int(told)
