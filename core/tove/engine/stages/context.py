"""What a stage is given: the run that it is part of, with its settings, models and loaders."""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from tove.backbones.experts.licences import Terms
from tove.backbones.export_folder import MARK
from tove.config import environment
from tove.config.build import or_told
from tove.config.keys import RUNNER_SETTINGS
from tove.config.overlay import merged_settings, plain_settings
from tove.config.upgrade import upgraded_model
from tove.config.validation import check_arguments
from tove.data.annotations import read_json
from tove.engine.checkpoint import attached_slots, read_checkpoint
from tove.engine.digests import lost_files
from tove.engine.fingerprints import check_frozen
from tove.engine.known_tokens import name_views
from tove.engine.optimizer import Schedule
from tove.engine.planning import method_settings
from tove.engine.provenance import check_provenance
from tove.engine.rows import WRITTEN
from tove.engine.seeding import seed_everything
from tove.engine.trainable_state import put_back_trained
from tove.errors import CheckpointError, ConfigError
from tove.protocols import Method, Row
from tove.registry import ENCODERS, FUNCTIONS, MODELS

__all__ = [
    "StageContext",
    "exported_encoder",
    "load_checkpoint_into",
]


def exported_encoder(encoder: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings that make an encoder's config read an export instead."""
    settings: dict[str, Any] = ENCODERS.get(encoder["type"]).read_export(folder.resolve())
    about = read_json(str(folder / MARK), WRITTEN, hint=dict)
    kind = about.get("type")  # of what its source's cannot read
    return settings if kind is None else settings | {"type": kind}


@dataclass
class StageContext:
    """The run that a stage is part of.

    Args:
        cfg: the whole config, data roots filled in.
        work_dir: the run's folder.
        rows: the rows of the stages before, in order.
        resume: go on with what is in the folder.
        amp: mixed precision.
        distributed: whether a process group is there.
        checkpoint: given by the user for a stage that is run alone.
        files: files that the user is told about at the end, with what each is.
        keeps_tokens: whether models have their config's token cache.
        caches: token caches by encoder settings, shared between the stages' models.
        loaders: data loaders of evaluation that are built already, by name.
        terms: of the experts that the run's stages run.
        device: where models run.
    """

    cfg: Config
    work_dir: Path
    rows: list[Row] = field(default_factory=list)
    resume: bool = False
    amp: bool = False
    distributed: bool = False
    checkpoint: Path | None = None
    files: dict[Path, str] = field(default_factory=dict)
    keeps_tokens: bool = True
    caches: dict[str, Any] = field(default_factory=dict)
    loaders: dict[str, DataLoader] = field(default_factory=dict)
    terms: list[Terms] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device(get_device()))
    _rehearsed: tuple[dict[str, Any], Method] | None = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.cfg.seed

    @property
    def slots(self) -> list[str]:
        """The slots of all configured experts, in the config's order."""
        return list(self.cfg.model.get("experts", {}))

    @property
    def image_size(self) -> int:
        """Side of the square view that the data sets give, in pixels."""
        return int(self.cfg.image_size)

    def folder(self, name: str) -> Path:
        """Return a stage's folder."""
        return self.work_dir / name

    def model_path(self, name: str) -> Path:
        """Return the checkpoint that a stage starts from: the user's, or what `name` wrote."""
        return self.checkpoint or self.folder(name) / "model.pth"

    def resumes(self, name: str) -> bool:
        """Tell whether a stage goes on within an interrupted training."""
        return self.resume and (self.folder(name) / "last_checkpoint").exists()

    def schedule(
        self,
        stage: str,
        over: Mapping[str, Any],
        runner: Mapping[str, Any],
        section: str = "schedule",
    ) -> Schedule:
        """Return the config's schedule with a stage's own settings over it.

        Args:
            stage: the stage's name.
            over: the stage's own.
            runner: the stage's settings in mmengine's vocabulary; steps and validation interval of
                a `train_cfg` there, or in the config, count.
            section: where in the config the stage's settings are, beside its own.

        Raises:
            ConfigError: a setting that no schedule has, `steps` left out, a value that is none, or
                a warm-up that does not end.
        """
        settings = merged_settings(plain_settings(self.cfg.get("schedule", {})), over)
        loop = self.runner_settings(runner).get("train_cfg", {})
        if loop.get("by_epoch") or "max_epochs" in loop:
            raise ConfigError(
                "train_cfg counts epochs, but stages are trained by steps, so that runs on data of "
                "different sizes compare; write train_cfg=dict(max_iters=...) or schedule.steps."
            )
        named = {"max_iters": "steps", "val_interval": "val_interval"}
        settings |= {ours: loop[theirs] for theirs, ours in named.items() if theirs in loop}
        check_arguments(Schedule, settings, section)
        schedule = Schedule(**settings)
        if schedule.steps and schedule.warmup >= schedule.steps:
            raise ConfigError(
                f"The stage '{stage}' has {schedule.steps} steps and cannot warm up for "
                f"{schedule.warmup} of them; set {section}.warmup below {section}.steps."
            )
        return schedule

    def runner_settings(self, over: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config's settings in mmengine's vocabulary with a stage's own over them."""
        own = {key: plain_settings(self.cfg[key]) for key in RUNNER_SETTINGS if key in self.cfg}
        return merged_settings(own, plain_settings(over))

    def require(self, stage: str, *settings: str) -> None:
        """Check that the config has what a stage reads.

        Raises:
            ConfigError: one of the top-level settings is missing, or empty.
        """
        missing = [key for key in settings if not self.cfg.get(key)]
        if missing:
            raise ConfigError(
                f"Stage '{stage}' needs the setting `{missing[0]}`, which the config lacks; "
                "configs/tiny/tove-tiny_scenes.py shows one."
            )

    def model_settings(self, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the model's config with `over` laid over it."""
        return method_settings(self.cfg.model, over or {})

    def kind_of(self, over: Mapping[str, Any] | None = None) -> type[Method]:
        """Return the class of the model that has `over` laid over its config."""
        kind: type[Method] = MODELS.get(self.model_settings(over)["type"])
        return kind

    def loader(self, name: str) -> dict[str, Any]:
        """Return the config of a data loader, such as "train_dataloader"."""
        loader = plain_settings(self.cfg[name])
        collate = loader.setdefault("collate_fn", {"type": "tove_collate"})
        # mmengine looks this one up in its root registry, whatever the scope.
        collate["type"] = FUNCTIONS.get(collate["type"])
        return loader

    def build_loader(self, name: str) -> DataLoader:
        """Build a data loader by its name, its data set and sampler included.

        Raises:
            ConfigError: its settings are none of a loader's.
        """
        make = partial(Runner.build_dataloader, self.loader(name), seed=self.seed)
        loader: DataLoader = or_told(make, name)
        return loader

    def evaluation_loader(self, name: str) -> DataLoader:
        """Return a data loader by its name, built once: its decoded images stay."""
        if name not in self.loaders:
            loader = self.build_loader(name)
            name_views(loader.dataset, self.cfg.model.get("token_cache"))
            self.loaders[name] = loader
        return self.loaders[name]

    def evaluator(self) -> list[dict[str, Any]]:
        """Return the configs of the metrics."""
        metrics = plain_settings(self.cfg.test_evaluator)
        metrics = metrics if isinstance(metrics, list) else [metrics]
        if self.distributed:
            for metric in metrics:
                # "gpu" gathers through the process group, gloo's too; "cpu" through files that
                # mmengine puts into the current folder.
                metric.setdefault("collect_device", "gpu")
        return metrics

    def build_model(
        self, over: Mapping[str, Any] | None = None, slots: Sequence[str] | None = None
    ) -> Method:
        """Build a model from the config, seeded, on the run's device.

        Args:
            over: settings laid over `cfg.model`.
            slots: the experts to have; the others are not built, nor looked for. None has all.

        Raises:
            ConfigError: the config has no such slot.
        """
        return self._built(self._settings_of(over, slots))

    def _settings_of(
        self, over: Mapping[str, Any] | None, slots: Sequence[str] | None = None
    ) -> dict[str, Any]:
        settings = self.model_settings(over)
        kind = MODELS.get(settings["type"])
        # Some run no expert, but are as large as another method with all of them.
        if slots is not None and kind.experts_of(settings):
            experts = settings.get("experts", {})
            missing = [slot for slot in slots if slot not in experts]
            if missing:
                raise ConfigError(
                    f"The checkpoint has an expert '{missing[0]}', but model.experts of the config "
                    f"has {', '.join(experts) or 'none'}; use the config it was trained with."
                )
            settings = kind.with_slots(settings, slots)
        if not self.keeps_tokens:
            settings = {key: value for key, value in settings.items() if key != "token_cache"}
        return settings

    def _built(self, settings: dict[str, Any]) -> Method:
        rehearsed, self._rehearsed = self._rehearsed, None
        if rehearsed is not None and rehearsed[0] == settings:
            return rehearsed[1]
        del rehearsed  # what is built next needs the room
        _free_finished()
        seed_everything(self.seed)
        model: Method = MODELS.build(settings).to(self.device)
        check_method(model)
        self._share_cache(model, settings)
        return model

    @contextmanager
    def rehearsed_model(self, over: Mapping[str, Any]) -> Iterator[Method]:
        """Build a model before its stage runs; the next that is built takes it over if it is alike.

        Choose in it what trains, but train nothing.

        Args:
            over: settings laid over `cfg.model`.
        """
        settings = self._settings_of(over)
        model = self._built(settings)
        with put_back_trained(model):
            yield model
        self._rehearsed = settings, model

    def _share_cache(self, model: Method, settings: Mapping[str, Any]) -> None:
        """Let models on the same encoder share frozen tokens; the image view is the run's own."""
        if model.cache is None:
            return
        shared = repr((settings["encoder"], settings.get("token_cache")))
        model.cache = self.caches.setdefault(shared, model.cache)

    def load_model(
        self, path: Path, over: Mapping[str, Any] | None = None, slots: Sequence[str] | None = None
    ) -> tuple[Method, dict[str, Any]]:
        """Build the model that a checkpoint is of, and load it.

        Args:
            path: the checkpoint.
            over: settings laid over `cfg.model` and over those that the checkpoint was made with.
            slots: the experts to have; None has all that the checkpoint has parameters for.

        Returns:
            The model and the checkpoint's meta.

        Raises:
            CheckpointError: it does not belong to this config.
        """
        checkpoint = read_checkpoint(path)
        meta = checkpoint["meta"]
        made_with = upgraded_model(meta.get("settings", {}))
        if "export" in meta:
            made_with["encoder"] = self._encoder_beside(path, meta)
        made_with = method_settings(made_with, over or {})
        if slots is None:
            slots = [] if self.kind_of(made_with).teachers_only else attached_slots(checkpoint)
        model = self.build_model(made_with, slots)
        for remark in check_provenance(meta.get("experts", {}), model.provenance(), str(path)):
            print_log(remark, logger="current", level=logging.WARNING)
        check_frozen(meta.get("frozen"), model.frozen, str(path))
        load_checkpoint_into(model, checkpoint, path)
        if model.cache is not None and any(
            n.startswith("encoder.") for n in checkpoint["state_dict"]
        ):
            model.cache = model.cache.anew()  # of an encoder of its own
        return model, meta

    def _encoder_beside(self, path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the export that a checkpoint's projection belongs to."""
        folder = path.parent / meta["export"]
        lost = lost_files(folder, meta.get("export_digests", {}))
        if lost:
            raise CheckpointError(
                f"{path} belongs to the encoder in {folder}, which is not as it was written: "
                f"{', '.join(lost[:4])}. Put it back, or run the stage '{meta['stage']}' again."
            )
        return exported_encoder(self.cfg.model.encoder, folder)

    def meta(self, model: Method, stage: str, **entries: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the meta of a checkpoint of `model`."""
        experts = model.provenance()
        return {
            "stage": stage,
            "seed": self.seed,
            "method": environment.origin_of(type(model)),
            "experts": experts,
            "attached": list(experts),
            "frozen": dict(model.frozen),
            "licences": self.licences_of(model),
            "versions": environment.versions(),
            "cfg": self.cfg.pretty_text,
            **entries,
        }

    def licences_of(self, model: Method) -> list[dict[str, Any]]:
        """Return the terms of the experts that a model runs, or that its encoder learned from."""
        slots = model.provenance()
        own = [asdict(entry) for entry in self.terms if entry.slot in slots]
        return [*getattr(model.plain_encoder(), "teachers", ()), *own]


def _free_finished() -> None:
    """Free the models that are done with: mmengine's Runner and loops hold each other in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_method(model: Any) -> None:  # noqa: ANN401 - what a config's type gives
    """Check that a model was settled: its checkpoints would hold frozen weights otherwise.

    Raises:
        ConfigError: it was not.
    """
    if not hasattr(model, "kept_names") or not hasattr(model, "frozen"):
        raise ConfigError(
            f"{type(model).__name__} does not say which of its parameters are its own; end its "
            "__init__ with self.settle(), see `tove.methods.vision_language_model`."
        )


def load_checkpoint_into(model: Method, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Load trained parameters; a refusal names the file.

    Raises:
        CheckpointError: they are of another model.
    """
    try:
        model.load_trainable(checkpoint["state_dict"])
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be loaded. {error}") from error
