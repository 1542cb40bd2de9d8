"""The merge stage: teach a copy of the encoder to predict t_fuse, then deploy that encoder alone.

    target = stop_gradient(t_fuse)      prediction = P_clip(CLIP'(image))       method 1.5

The row `merged` is measured on what a user would load: the exported folder, read anew as an
ordinary encoder, in front of the transfer stage's P_clip and language adapters.
"""

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from torch import Tensor

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.config.overlay import merged_settings, plain_settings
from tove.config.validation import check_model
from tove.engine.checkpoint import save_checkpoint
from tove.engine.loop import RunPlan, build_stage_runner, images_seen
from tove.engine.optimizer import Schedule
from tove.engine.stages.context import StageContext, exported_encoder
from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
from tove.engine.stages.source import check_source
from tove.errors import ConfigError
from tove.evaluation.profile.parameters import count_parameters
from tove.methods.tove.merging import Merge, check_student
from tove.protocols import Row
from tove.registry import DATASETS, ENCODERS, MODELS, STAGES

__all__ = ["MergeStage"]

EXPORT = "export"
EXPORTABLE = (TransformersCLIP, OpenCLIP)


@STAGES.register_module()
class MergeStage:
    """Trains `cfg.merging.model` on `unlabelled_dataloader`, then exports the student.

    Args:
        name: the stage's name.
        source: the stage whose model is the teacher.
        model: settings laid over `cfg.merging.model`.
        schedule: settings laid over `cfg.merging.schedule`.
        row: the row's name; by default "merged" for the stage "merge", else the stage's name.

    The export goes to `work_dir/export` for the stage "merge" and to the stage's own folder for
    any other, such as the control that merges the baseline: the same images and steps, a teacher
    without experts.
    """

    depends_on = (
        "model",
        "merging",
        "schedule",
        "unlabelled_dataloader",
        "test_dataloader",
        "test_evaluator",
        "seed",
    )
    repeats = False

    def __init__(
        self,
        name: str,
        source: str = "transfer",
        model: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        row: str | None = None,
    ) -> None:
        self.name = name
        self.source = source
        main = name == "merge"
        self.row = row or ("merged" if main else name)
        self.export = EXPORT if main else f"{name}/{EXPORT}"
        self.model = dict(model or {})
        self.schedule = dict(schedule or {})

    def check(self, context: StageContext) -> None:
        """Check that the config says what and how to merge."""
        context.require(self.name, "merging", "unlabelled_dataloader", "test_evaluator")
        check_source(context, self.name, self.source)
        self._schedule(context)
        settings = merged_settings(plain_settings(context.cfg.merging.model), self.model)
        model = MODELS.get(settings["type"])
        check_model(model, settings, f"stages.{self.name}.model")
        if model is Merge:
            self._check_targets(context, settings.get("lm_weight", 0.0))
            check_student(settings.get("student", "full"), f"stages.{self.name}.model.student")
        encoder = ENCODERS.get(context.cfg.model.encoder["type"])
        if not (inspect.isclass(encoder) and issubclass(encoder, EXPORTABLE)):
            raise ConfigError(
                f"Stage '{self.name}' exports the merged encoder as CLIP, which model.encoder of "
                f"type {context.cfg.model.encoder['type']} cannot be; use "
                f"{' or '.join(kind.__name__ for kind in EXPORTABLE)}, or take the stage out."
            )

    def _check_targets(self, context: StageContext, lm_weight: float) -> None:
        """Refuse a language loss on images without text: it would be zero at every step."""
        kind = DATASETS.get(context.cfg.unlabelled_dataloader.dataset["type"])
        if lm_weight and not getattr(kind, "has_targets", True):
            raise ConfigError(
                f"stages.{self.name}.model.lm_weight is {lm_weight}, but {kind.__name__} gives "
                "images without text, on which there is no language loss; set it to 0, or give "
                "unlabelled_dataloader a data set with text, such as CocoCaptions."
            )

    def _schedule(self, context: StageContext) -> Schedule:
        settings = plain_settings(context.cfg.merging)
        return context.schedule(merged_settings(settings.get("schedule", {}), self.schedule))

    def run(self, context: StageContext) -> list[Row]:
        """Train the student, export it, measure the export."""
        settings = plain_settings(context.cfg.merging)
        schedule = self._schedule(context)
        teacher, meta = context.load_model(context.model_path(self.source))
        model: Merge = MODELS.build(
            {**merged_settings(settings["model"], self.model), "teacher": teacher}
        ).to(context.device)
        self._rehearse(context, model)
        seen = self._train(context, model, schedule)
        self._export(context, model)
        seen |= self._seen_by_teacher(context)
        entries = {"training_images": len(seen), "steps": meta.get("steps", 0) + schedule.steps}
        # What trained is the student; in front of the language model nothing trains any more.
        trained, state = count_parameters(model)[0], teacher.state_dict()
        del teacher, model  # what is measured needs the room
        row = self._measure(context, state, entries)
        return [row | {"trainable_parameters": trained}]

    def _train(self, context: StageContext, model: Merge, schedule: Schedule) -> set[str]:
        if not schedule.steps:
            return set()
        runner = build_stage_runner(
            RunPlan(
                folder=context.folder(self.name),
                model=model,
                seed=context.seed,
                meta=lambda: context.meta(model.teacher, self.name),
                schedule=schedule,
                train_dataloader=context.loader("unlabelled"),
                distributed=context.distributed,
                amp=context.amp,
                resume=context.resume,
            )
        )
        runner.train()
        return images_seen(runner, schedule.steps)

    def _rehearse(self, context: StageContext, model: Merge) -> None:
        """Export the student once before it trains: what no format holds is said now."""
        from tove.backbones.clip.export import export_encoder

        if is_main_process():
            context.work_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=context.work_dir, prefix=".rehearsal.") as folder:
                encoder: Any = model.merged_encoder()
                export_encoder(encoder, Path(folder) / EXPORT)
        barrier()

    def _export(self, context: StageContext, model: Merge) -> None:
        from tove.backbones.clip.export import export_encoder

        folder = context.work_dir / self.export
        if is_main_process():
            encoder: Any = model.merged_encoder()
            export_encoder(encoder, folder)
        barrier()
        context.files[folder] = f"{self.row}: the encoder, for transformers and for open_clip"

    def _seen_by_teacher(self, context: StageContext) -> set[str]:
        listed = context.model_path(self.source).parent / "images_seen.txt"
        return set(listed.read_text().split("\n")) - {""} if listed.exists() else set()

    def _measure(
        self, context: StageContext, state: Mapping[str, Tensor], entries: Mapping[str, int]
    ) -> Row:
        """Read the export as any encoder and give it the language side of the teacher's state."""
        folder = context.folder(self.name)
        exported = exported_encoder(context.cfg.model.encoder, context.work_dir / self.export)
        model = context.build_model({"arm": "plain", "encoder": exported}, slots=[])
        model.load_trainable({name: state[name] for name in model.state_dict()})
        if is_main_process():
            meta = context.meta(
                model, self.name, settings={"arm": "plain"}, export=f"../{self.export}", **entries
            )
            save_checkpoint(folder / "model.pth", model, meta)
        context.files[folder / "model.pth"] = f"{self.row}: projection and adapters"
        runner = evaluation_runner(context, self.name, model)
        return measure_row(
            context,
            runner,
            name=self.row,
            experts=[],
            stage=self.name,
            **entries,
        )
