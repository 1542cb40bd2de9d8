"""Hooks of the training loop: resumption, loss curves, checkpoints, provenance.

An interrupted run that resumes must give the losses of an uninterrupted one: weights, optimiser and
schedule come from the checkpoint, the data order from the seeded sampler that mmengine skips
forward, and every random draw within a step from `tove.engine.seeding`.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import CheckpointHook, Hook, RuntimeInfoHook
from mmengine.runner import Runner

from tove.atomic_io import write_text, writing
from tove.engine.checkpoint import step_of, way_of_training
from tove.engine.distributed import unwrapped
from tove.engine.fingerprints import check_frozen
from tove.engine.provenance import check_provenance
from tove.engine.seeding import seed_step
from tove.engine.sharding import is_sharded, own_parts
from tove.errors import TrainingError
from tove.registry import HOOKS

__all__ = [
    "AtomicCheckpointHook",
    "DeferredRuntimeInfoHook",
    "LossCurveHook",
    "ProvenanceHook",
    "ReseedHook",
    "keep_lines",
]

_DIVERGED = 3  # steps without a finite loss: mixed precision skips single ones


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seeds every generator from seed, iteration and rank before each step.

    While it trains, the model has as `shared_generator` one from which all ranks draw the same.

    Args:
        seed: the run's seed.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed, self.shared = seed, torch.Generator()

    def before_train(self, runner: Runner) -> None:
        """Give the model the generator."""
        unwrapped(runner.model).shared_generator = self.shared

    def after_train(self, runner: Runner) -> None:
        """Take it back: nothing seeds it any more."""
        unwrapped(runner.model).shared_generator = None

    def before_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,  # noqa: ANN401 - mmengine's signature
    ) -> None:
        """Seed the step."""
        seed_step(self.seed, runner.iter, self.shared)


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's RuntimeInfoHook, except that a step's losses are left to `LossCurveHook`.

    The stock hook reads each of them at each step, and the device is waited for.
    """

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Leave the step's outputs alone."""


@HOOKS.register_module()
class LossCurveHook(Hook):
    """Appends one JSON line per step: iteration (from 1), losses as means over ranks, rate.

    A gradient norm that the optimiser's wrapper keeps is a term like the losses. The same numbers
    go to mmengine's message hub, from which the console and TensorBoard get theirs.

    Losses stay on their device and are written every `interval` steps: reading each at once would
    make the device wait for every step. On resumption, lines past the resumed iteration are
    dropped, so that each step is there once.

    Args:
        filename: within the stage's folder.
        interval: steps between writes; it must divide the steps between checkpoints, or a crash
            loses lines that the checkpoint has seen.
    """

    priority = "NORMAL"

    def __init__(self, filename: str = "loss.jsonl", interval: int = 50) -> None:
        self.filename, self.interval = filename, interval
        self.path = Path()
        self._steps: list[tuple[int, float]] = []  # iteration, rate
        self._losses: list[dict[str, torch.Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        """Cut the file back to what the resumed checkpoint has seen."""
        self.path = Path(runner.work_dir) / self.filename
        if is_main_process():
            keep_lines(self.path, runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,  # noqa: ANN401 - mmengine's signature
        outputs: dict | None = None,
    ) -> None:
        """Keep the step's losses."""
        losses = {
            # Attached, a number that nothing back-propagates would keep its step's activations.
            key: torch.as_tensor(value).detach()
            for key, value in (outputs or {}).items()
            if _is_scalar(value)
        }
        grad_norm = getattr(runner.optim_wrapper, "grad_norm", None)
        self._losses.append(losses if grad_norm is None else losses | {"grad_norm": grad_norm})
        self._steps.append((runner.iter + 1, runner.optim_wrapper.get_lr()["lr"][0]))
        if (runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters:
            self.write(runner)

    def write(self, runner: Runner) -> None:
        """Write the kept steps' lines; all ranks take part."""
        if not self._steps:
            return
        every = [value for losses in self._losses for value in losses.values()]
        # A term may be a plain number, on the CPU beside losses on an accelerator.
        device = next((value.device for value in every if value.device.type != "cpu"), "cpu")
        flat = torch.stack([value.double().flatten()[0].to(device) for value in every])
        if runner.world_size > 1:
            all_reduce(flat, op="mean")
        values = iter(flat.tolist())
        rows = [{name: next(values) for name in losses} for losses in self._losses]
        for row in rows:
            for name, value in row.items():
                runner.message_hub.update_scalar(f"train/{name}", value)
        if is_main_process():
            with writing(self.path), self.path.open("a") as stream:
                for (iteration, rate), row in zip(self._steps, rows, strict=True):
                    stream.write(json.dumps({"iter": iteration, **row, "lr": rate}) + "\n")
        _check_finite(Path(runner.work_dir).name, self._steps[-1][0], rows[-_DIVERGED:])
        self._steps, self._losses = [], []


def _check_finite(stage: str, iteration: int, rows: Sequence[dict[str, float]]) -> None:
    """Stop a training that has diverged, before a checkpoint of it is written."""
    lost = [name for name in rows[-1] if "loss" in name and not math.isfinite(rows[-1][name])]
    if any(all(not math.isfinite(row.get(name, 0.0)) for row in rows) for name in lost):
        raise TrainingError(
            f"Stage '{stage}' has diverged: {lost[0]} is {rows[-1][lost[0]]} at step {iteration}. "
            "Lower schedule.lr, lengthen schedule.warmup or set schedule.clip, and train the stage "
            "anew; its last checkpoint is from before this step."
        )


def _is_scalar(value: object) -> bool:
    return isinstance(value, int | float) or (torch.is_tensor(value) and value.numel() == 1)


def keep_lines(path: Path, iteration: int) -> None:
    """Cut a file of one JSON line per step back to the steps up to one; 0 empties it."""
    there = iteration and path.exists()
    lines = path.read_text(errors="replace").splitlines() if there else []
    kept = [line for line in lines if _iteration(line) <= iteration]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _iteration(line: str) -> float:
    """Give the iteration of a line; infinity for one that a crash cut short."""
    try:
        return json.loads(line)["iter"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, except that no moment leaves the run without a whole checkpoint.

    The stock hook deletes the oldest checkpoint before it writes the next, and writes in place: a
    full disk then costs both. Here the new one is complete before an old one goes.

    Args:
        interval: steps between checkpoints; the last step always writes one.
        max_keep_ckpts: how many stay.
        **options: mmengine's, such as `save_best`.
    """

    def __init__(self, interval: int, max_keep_ckpts: int = 2, **options: Any) -> None:  # noqa: ANN401
        options = {"by_epoch": False, "backend_args": {"backend": "tove_atomic"}, **options}
        super().__init__(interval=interval, max_keep_ckpts=-1, **options)
        self.keep = max_keep_ckpts

    def before_train(self, runner: Runner) -> None:
        """Take the runner's folder."""
        self.out_dir = runner.work_dir

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Of a sharded training let each process keep its own parts; other hooks' are there."""
        if is_sharded(runner.model):
            parts = {key: own_parts(value) for key, value in checkpoint.items()}
            checkpoint.update(parts, shards=runner.world_size)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = str(Path(self.out_dir) / name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir, name, meta=meta, by_epoch=False, backend_args=self.backend_args
        )
        if not is_main_process():
            return
        write_text(Path(runner.work_dir) / "last_checkpoint", name)
        kept = sorted(Path(self.out_dir).glob("iter_*.pth"), key=step_of)
        for old in kept[: -self.keep]:
            old.unlink()
        for part in Path(self.out_dir).glob("*.shard_*"):  # an older one's, or of one cut short
            if not part.with_suffix(".pth").exists():
                part.unlink()


@HOOKS.register_module()
class ProvenanceHook(Hook):
    """Puts a run's provenance into each checkpoint's meta and checks it on resumption.

    Args:
        meta: gives the entries; called when a checkpoint is written or read.
        amp: whether precision is mixed; a checkpoint says so, and on how many processes it is.
    """

    def __init__(self, meta: Callable[[], dict[str, Any]], amp: bool = False) -> None:
        self.meta, self.amp = meta, amp

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the entries."""
        checkpoint["meta"].update(self.meta(), **way_of_training(self.amp))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the experts and the frozen parts."""
        saved, where = checkpoint["meta"], "The resumed checkpoint"
        if "experts" not in saved:
            return
        now = self.meta()
        for remark in check_provenance(saved["experts"], now["experts"], where):
            runner.logger.warning(remark)
        check_frozen(saved.get("frozen"), now.get("frozen", {}), where)
