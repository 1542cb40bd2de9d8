"""The transfer stage: train one arm on image-text data and measure it.

arm "tove"      t_fuse = v + lambda . MLP_t(z)         method 1.1
arm "baseline"  the same number of trained parameters, without experts
arm "plain"     t_fuse = v
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process

from tove.atomic_io import write_text
from tove.engine.checkpoint import save_checkpoint
from tove.engine.loop import RunPlan, StageRunner, build_stage_runner, images_seen
from tove.engine.optimizer import Schedule
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
from tove.engine.stages.resume import images_of, start_training
from tove.engine.stages.text_checks import check_texts, warn_of_unknown_words
from tove.protocols import Model, Row
from tove.registry import STAGES

__all__ = ["TransferStage"]


@STAGES.register_module()
class TransferStage:
    """Trains a model on `train_dataloader`, evaluates it on `test_dataloader`.

    Args:
        name: the stage's name.
        model: settings laid over `cfg.model`, `dict(arm="baseline")` for example.
        schedule: settings laid over `cfg.schedule`.
        row: the row's name; by default "tove" for the stage "transfer" where that has experts,
            else the stage's name.
    """

    depends_on = (
        "model",
        "schedule",
        "train_dataloader",
        "test_dataloader",
        "test_evaluator",
        "seed",
    )
    repeats = False

    def __init__(
        self,
        name: str,
        model: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        row: str | None = None,
    ) -> None:
        self.name = name
        self.model = dict(model or {})
        self.schedule = dict(schedule or {})
        self._row = row

    def check(self, context: StageContext) -> None:
        """Check the schedule, what the stage reads, and what is laid over the model's settings."""
        schedule = context.schedule(self.schedule)
        context.require(self.name, "test_evaluator", *["train_dataloader"] * bool(schedule.steps))
        context.require(self.name, *["val_dataloader"] * bool(schedule.val_interval))
        context.check_model(self.model, f"stages.{self.name}.model")

    def row(self, context: StageContext) -> str:
        """Name the row; one of the arm "baseline" must never pass for ToVE's."""
        is_tove = self.name == "transfer" and context.arm(self.model) == "tove"
        return self._row or ("tove" if is_tove else self.name)

    def with_other_experts(self, context: StageContext) -> str:
        """Say what becomes of the stage when experts change; the baseline's size follows theirs."""
        by_arm = {"plain": "keep", "tove": "carry over"}
        return by_arm.get(context.arm(self.model), "begin again")

    def run(self, context: StageContext) -> list[Row]:
        """Train, save, evaluate."""
        schedule = context.schedule(self.schedule)
        model = context.build_model(self.model)
        earlier = start_training(context, self.name, model)
        seen = images_of(earlier)
        for split in ("test", *["val"] * bool(schedule.val_interval)):
            check_texts(context, model, split)
        if not schedule.steps:
            runner = evaluation_runner(context, self.name, model)
        else:
            runner = self._train(context, model, schedule)
            seen |= images_seen(runner, schedule.steps)
        steps = earlier.get("steps", 0) + schedule.steps
        entries = {"training_images": len(seen), "steps": steps}
        self._save(context, model, entries, seen)
        row = measure_row(
            context,
            runner,
            name=self.row(context),
            experts=list(context.meta(model, self.name)["experts"]),
            stage=self.name,
            **entries,
        )
        return [row]

    def _train(self, context: StageContext, model: Model, schedule: Schedule) -> StageRunner:
        runner = build_stage_runner(
            RunPlan(
                folder=context.folder(self.name),
                model=model,
                seed=context.seed,
                meta=lambda: context.meta(model, self.name, settings=self.model),
                schedule=schedule,
                train_dataloader=context.loader("train"),
                test_dataloader=context.evaluation_loader("test"),
                evaluator=context.evaluator(),
                val_dataloader=context.evaluation_loader("val") if schedule.val_interval else None,
                distributed=context.distributed,
                amp=context.amp,
                unused_parameters=model.expert_dropout > 0 or not model.hub.attached,
                resume=context.resume,
            )
        )
        warn_of_unknown_words(model, runner.train_dataloader.dataset)
        runner.train()
        return runner

    def _save(
        self, context: StageContext, model: Model, entries: dict[str, int], seen: set[str]
    ) -> None:
        folder: Path = context.folder(self.name)
        if is_main_process():
            meta = context.meta(model, self.name, settings=self.model, **entries)
            save_checkpoint(folder / "model.pth", model, meta)
            write_text(folder / "images_seen.txt", "".join(f"{i}\n" for i in sorted(seen)))
        context.files[folder / "model.pth"] = f"{self.row(context)}: trained parameters"
