"""The merge stage: teach a copy of the encoder to predict t_fuse.

    target = stop_gradient(t_fuse)      prediction = P_clip(CLIP'(image))

What it leaves is plain CLIP around the student: experts, gate and MLP_t are gone. An ExportStage
writes and measures it; a TrainStage may go on from it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process

from tove.config.keys import TRAINING_SETTINGS
from tove.config.overlay import merged_settings, plain_settings
from tove.config.validation import check_model, look_up
from tove.engine.checkpoint import write_checkpoint
from tove.engine.drawn_batches import drawn_batches
from tove.engine.images_seen import images_seen
from tove.engine.known_tokens import check_still
from tove.engine.loop import build_stage_runner
from tove.engine.optimizer import Schedule
from tove.engine.plan.training import PlannedTraining
from tove.engine.planning import run_overlay
from tove.engine.rehearsal import rehearse_training
from tove.engine.run_plan import RunPlan
from tove.engine.stages.context import StageContext
from tove.engine.stages.export import rehearse_exports
from tove.engine.stages.source import check_source
from tove.errors import ConfigError
from tove.evaluation.profile.parameters import count_parameters
from tove.methods.tove.merging import Merge
from tove.methods.tove.student import check_student
from tove.protocols import Row
from tove.registry import DATASETS, MODELS, STAGES

__all__ = ["MergeStage"]

_SAMPLES = 2048  # with text, which the Fisher metric is of


@STAGES.register_module()
class MergeStage:
    """Trains `cfg.merging.model` on `unlabelled_dataloader`, the teacher being a stage's model.

    Args:
        name: the stage's name.
        source: the stage whose model is the teacher, of any method that has a `projector`.
        model: settings laid over `cfg.merging.model`.
        schedule: settings laid over `cfg.merging.schedule`.
        runner: mmengine's settings of this stage, laid over the config's own.
    """

    depends_on = (
        "model",
        "merging",
        "schedule",
        "unlabelled_dataloader",
        "train_dataloader",
        "seed",
        *TRAINING_SETTINGS,
    )
    repeats = False
    leaves: Mapping[str, Any] = {"type": "PlainCLIP"}

    def __init__(
        self,
        name: str,
        source: str,
        model: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        runner: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.source = name, source
        self.model, self.schedule = dict(model or {}), dict(schedule or {})
        self.runner = dict(runner or {})

    def check(self, context: StageContext) -> None:
        """Check that the config says what and how to merge."""
        context.require(self.name, "merging", "unlabelled_dataloader")
        check_source(context, self.name, self.source)
        self._schedule(context)
        settings, where = self._settings(context), f"stages.{self.name}.model"
        model = look_up(MODELS, settings.get("type"), where)
        check_model(model, settings, where)
        if model is Merge:
            self._check_targets(context, settings.get("lm_weight", 0.0))
            check_student(settings.get("student", "full"), f"{where}.student")
            if settings.get("loss") == "fisher":
                context.require(self.name, "train_dataloader")

    def _check_targets(self, context: StageContext, lm_weight: float) -> None:
        """Refuse a language loss on images without text: it would be zero at every step."""
        kind = DATASETS.get(context.cfg.unlabelled_dataloader.dataset["type"])
        if lm_weight and not getattr(kind, "has_targets", True):
            raise ConfigError(
                f"stages.{self.name}.model.lm_weight is {lm_weight}, but {kind.__name__} gives "
                "images without text, on which there is no language loss; set it to 0, or give "
                "unlabelled_dataloader a data set with text, such as CocoCaptions."
            )

    def _settings(self, context: StageContext) -> dict[str, Any]:
        return merged_settings(plain_settings(context.cfg.merging.model), self.model)

    def _schedule(self, context: StageContext) -> Schedule:
        settings = plain_settings(context.cfg.merging)
        over = merged_settings(settings.get("schedule", {}), self.schedule)
        return context.schedule(self.name, over, self.runner, "merging.schedule")

    def planned(self, context: StageContext) -> PlannedTraining:
        """Return what is going to be trained, and how long."""
        teacher = context.build_model(run_overlay(context.cfg, self.name))
        model = MODELS.build({**self._settings(context), "teacher": teacher})
        return PlannedTraining(model, self._schedule(context), "unlabelled_dataloader")

    def run(self, context: StageContext) -> list[Row]:
        """Train the student and save what is left; the row is the export's."""
        schedule = self._schedule(context)
        teacher, meta = context.load_model(context.model_path(self.source))
        settings = {**self._settings(context), "teacher": teacher}
        model: Merge = MODELS.build(settings).to(context.device)
        rehearse_exports(context, self.name, model)
        if model.loss == "fisher" and schedule.steps and not context.resumes(self.name):
            loader, seed = context.build_loader("train_dataloader"), context.seed
            model.fit_metric(drawn_batches(model, loader, seed, _SAMPLES, even=True), seed)
        seen = self._train(context, model, schedule) | self._seen_by_teacher(context)
        folder = context.folder(self.name)
        if is_main_process():
            meta = {
                **context.meta(teacher, self.name, settings=dict(self.leaves)),
                "experts": {},
                "attached": [],
                "licences": meta.get("licences", []),  # those of what its teacher learned from
                "training_images": len(seen),
                "steps": meta.get("steps", 0) + schedule.steps,
                "trained_parameters": count_parameters(model)[0],
                **_last_loss(folder),
            }
            state = {name: tensor.cpu() for name, tensor in model.deployed().items()}
            write_checkpoint(folder / "model.pth", {"meta": meta, "state_dict": state})
        context.files[folder / "model.pth"] = f"{self.name}: plain CLIP around the merged encoder"
        return []

    def rehearse(self, context: StageContext) -> None:
        """Build the student and what it trains by, before an earlier stage trains."""
        if context.checkpoint is None:  # else its teacher is that one, and nothing runs before
            planned = self.planned(context)
            if planned.schedule.steps:
                model = planned.model.to(context.device)
                rehearse_training(self._plan(context, model, planned.schedule))

    def _plan(self, context: StageContext, model: Merge, schedule: Schedule) -> RunPlan:
        return RunPlan(
            folder=context.folder(self.name),
            model=model,
            seed=context.seed,
            meta=lambda: context.meta(model.teacher, self.name),
            schedule=schedule,
            train_dataloader=context.build_loader("unlabelled_dataloader"),
            distributed=context.distributed,
            amp=context.amp,
            resume=context.resume,
            settings=context.runner_settings(self.runner),
            config=context.cfg.to_dict(),
        )

    def _train(self, context: StageContext, model: Merge, schedule: Schedule) -> set[str]:
        if not schedule.steps:
            return set()
        runner = build_stage_runner(self._plan(context, model, schedule))
        check_still(runner.train_dataloader.dataset, model.teacher)
        runner.train()
        return images_seen(runner, schedule.steps)

    def _seen_by_teacher(self, context: StageContext) -> set[str]:
        listed = context.model_path(self.source).parent / "images_seen.txt"
        return set(listed.read_text("utf-8").split("\n")) - {""} if listed.exists() else set()


def _last_loss(folder: Path) -> dict[str, float]:
    """Return the mean distance from the teacher over the training's last tenth."""
    curve = folder / "loss.jsonl"
    lines = curve.read_text().splitlines() if curve.exists() else []
    last = [json.loads(line)["loss_merge"] for line in lines[-max(1, len(lines) // 10) :]]
    return {"merge_loss": sum(last) / len(last)} if last else {}
