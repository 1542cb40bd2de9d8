"""Train a model on a data set and measure it: the stage that every method is trained by.

A second stage may go on from the first one's model, on other data, training more of it or less:

    dict(type="TrainStage", name="align", trains="projector", data=dict(train="text_dataloader"))
    dict(type="TrainStage", name="tune", source="align", trains=["projector", "language.lm"])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process
from torch.utils.data import DataLoader

from tove.atomic_io import write_text
from tove.config.keys import TRAINING_SETTINGS
from tove.engine.checkpoint import save_checkpoint
from tove.engine.images_seen import images_seen
from tove.engine.known_tokens import skip_known_views
from tove.engine.loop import StageRunner, build_stage_runner
from tove.engine.optimizer import Schedule, check_trains
from tove.engine.plan.training import PlannedTraining
from tove.engine.planning import run_overlay
from tove.engine.rehearsal import rehearse_training
from tove.engine.run_plan import RunPlan
from tove.engine.sharding import is_sharded
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
from tove.engine.stages.export import rehearse_exports
from tove.engine.stages.resume import images_of, kept_slots, start_training, steps_of
from tove.engine.stages.source import check_reference, check_source
from tove.engine.stages.text_checks import (
    check_lengths,
    check_texts,
    warn_of_unknown_words,
)
from tove.engine.token_norms import fit_token_norms
from tove.engine.trainable_state import choose_trained
from tove.errors import ConfigError
from tove.protocols import Method, Role, Row
from tove.registry import STAGES

__all__ = ["TrainStage"]

_SPLITS = ("train", "val", "test")


@STAGES.register_module()
class TrainStage:
    """Trains a model on `train_dataloader`, evaluates it on `test_dataloader`.

    Args:
        name: the stage's name.
        model: settings laid over `cfg.model`, or over those of the source's model. Another `type`
            takes of them what its class knows.
        source: the stage whose model this one goes on from; None starts anew.
        data: by "train", "val" or "test", the name of another top-level loader of the config.
        trains: paths of what trains, wildcards allowed, see `choose_trained`; None is what the
            model trains by itself.
        schedule: settings laid over `cfg.schedule`.
        runner: mmengine's settings of this stage, laid over the config's own (`optim_wrapper`,
            `custom_hooks`, ...).
        row: the row's name; by default the stage's.
        role: the part that its row plays; by default the model's own.
        reference: the row that its gain is over; by default the last baseline, else plain CLIP.
    """

    depends_on: tuple[str, ...] = (
        "model",
        "schedule",
        "test_evaluator",
        "seed",
        *TRAINING_SETTINGS,
    )
    repeats = False
    overlays_model = True

    def __init__(
        self,
        name: str,
        model: Mapping[str, Any] | None = None,
        source: str | None = None,
        data: Mapping[str, str] | None = None,
        trains: str | Sequence[str] | None = None,
        schedule: Mapping[str, Any] | None = None,
        runner: Mapping[str, Any] | None = None,
        row: str | None = None,
        role: Role | None = None,
        reference: str | None = None,
    ) -> None:
        self.name, self.source = name, source
        self.model = dict(model or {})
        self.trains = [trains] if isinstance(trains, str) else trains
        self.schedule, self.runner = dict(schedule or {}), dict(runner or {})
        self.row, self.role, self.reference = row or name, role, reference
        self.data = {split: f"{split}_dataloader" for split in _SPLITS} | dict(data or {})
        self.depends_on = (*self.depends_on, self.data["train"], self.data["test"])

    def check(self, context: StageContext) -> None:
        """Check the schedule, what the stage reads, and what is laid over the model's settings."""
        for split in self.data:
            if split not in _SPLITS:
                raise ConfigError(
                    f"stages.{self.name}.data has '{split}'; give a loader's name for "
                    f"{', '.join(_SPLITS[:-1])} or {_SPLITS[-1]}."
                )
        if self.source is not None:
            check_source(context, self.name, self.source)
            self._check_not_exported(context, self.source)
        check_reference(context, self.name, self.reference)
        schedule = context.schedule(self.name, self.schedule, self.runner)
        needed = [self.data["test"], *[self.data["train"]] * bool(schedule.steps)]
        needed += [self.data["val"]] * bool(schedule.val_interval)
        context.require(self.name, "test_evaluator", *needed)

    def _check_not_exported(self, context: StageContext, source: str) -> None:
        """Refuse an export's checkpoint: its encoder is in the exported folder."""
        of = {e["name"]: e.get("source") for e in context.cfg.stages if e["type"] == "ExportStage"}
        if source in of:
            raise ConfigError(
                f"Stage '{self.name}' goes on from '{source}', which exports a model and trains "
                f"none; set its source to '{of[source]}', whose model that is."
            )

    def _overlay(self, context: StageContext) -> dict[str, Any]:
        return run_overlay(context.cfg, self.name)

    def with_other_experts(self, context: StageContext) -> str:
        """Say what becomes of the stage when experts change: the model's class knows."""
        return context.kind_of(self._overlay(context)).on_other_experts

    def rehearse(self, context: StageContext) -> None:
        """Build what trains and by what: what cannot be is told before an earlier stage trains."""
        schedule = context.schedule(self.name, self.schedule, self.runner)
        context.evaluation_loader(self.data["test"])
        with context.rehearsed_model(self._overlay(context)) as model:
            self._choose(model)
            if schedule.steps:
                check_trains(model)
                loader = context.build_loader(self.data["train"])
                rehearse_training(self._plan(context, model, schedule, loader))

    def _choose(self, model: Method) -> None:
        if self.trains is not None:
            choose_trained(model, self.trains, f"stages.{self.name}.trains")

    def run(self, context: StageContext) -> list[Row]:
        """Train, save, evaluate."""
        schedule = context.schedule(self.name, self.schedule, self.runner)
        over = self._overlay(context)
        model = context.build_model(over)
        earlier = start_training(context, self.name, model, self.source)
        self._choose(model)
        seen = images_of(earlier)
        for split in ("test", *["val"] * bool(schedule.val_interval)):
            check_texts(context, model, self.data[split])
        if not schedule.steps:
            runner = evaluation_runner(context, self.name, model, self.data["test"])
        else:
            rehearse_exports(context, self.name, model)
            loader = context.build_loader(self.data["train"])
            if not context.resumes(self.name):
                fit_token_norms(model, loader, context.seed, kept_slots(earlier))
            runner = self._train(context, model, schedule, loader)
            seen |= images_seen(runner, schedule.steps)
        steps = steps_of(earlier) + schedule.steps
        entries = {"training_images": len(seen), "steps": steps}
        self._save(context, model, {**entries, "settings": over, "row": self.row}, seen)
        if is_sharded(model):  # measured is what was saved, as whole as it will be used
            barrier()
            model, _ = context.load_model(context.folder(self.name) / "model.pth")
            runner = evaluation_runner(context, self.name, model, self.data["test"])
        row = measure_row(
            context,
            runner,
            name=self.row,
            role=self.role or type(model).role,
            reference=self.reference,
            experts=list(model.running()),
            stage=self.name,
            **entries,
        )
        return [row]

    def planned(self, context: StageContext) -> PlannedTraining:
        """Return what is going to be trained, and how long."""
        model = context.build_model(self._overlay(context))
        self._choose(model)
        schedule = context.schedule(self.name, self.schedule, self.runner)
        return PlannedTraining(model, schedule, self.data["train"])

    def _plan(
        self, context: StageContext, model: Method, schedule: Schedule, loader: DataLoader
    ) -> RunPlan:
        validates, over = bool(schedule.val_interval), self._overlay(context)
        return RunPlan(
            folder=context.folder(self.name),
            model=model,
            seed=context.seed,
            meta=lambda: context.meta(model, self.name, settings=over),
            schedule=schedule,
            train_dataloader=loader,
            test_dataloader=context.evaluation_loader(self.data["test"]),
            evaluator=context.evaluator(),
            val_dataloader=context.evaluation_loader(self.data["val"]) if validates else None,
            distributed=context.distributed,
            amp=context.amp,
            unused_parameters=model.leaves_unused,
            resume=context.resume,
            settings=context.runner_settings(self.runner),
            config=context.cfg.to_dict(),
        )

    def _train(
        self, context: StageContext, model: Method, schedule: Schedule, loader: DataLoader
    ) -> StageRunner:
        runner = build_stage_runner(self._plan(context, model, schedule, loader))
        check_lengths(model, loader.dataset)
        warn_of_unknown_words(model, loader.dataset)
        skip_known_views(loader.dataset, model)
        runner.train()
        return runner

    def _save(
        self, context: StageContext, model: Method, entries: dict[str, Any], seen: set[str]
    ) -> None:
        folder: Path = context.folder(self.name)
        save_checkpoint(folder / "model.pth", model, context.meta(model, self.name, **entries))
        if is_main_process():
            write_text(folder / "images_seen.txt", "".join(f"{i}\n" for i in sorted(seen)))
        context.files[folder / "model.pth"] = f"{self.row}: trained parameters"
