"""What a stage is given, and what it must be.

A stage has a name, says which settings its outcome depends on, and returns the rows it measured.
"""

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from tove.backbones.experts.licences import Terms
from tove.config import environment
from tove.config.overlay import merged_settings, plain_settings
from tove.config.validation import check_model
from tove.engine.checkpoint import attached_slots, read_checkpoint
from tove.engine.fingerprints import check_frozen
from tove.engine.optimizer import Schedule
from tove.engine.provenance import check_provenance
from tove.engine.seeding import seed_everything
from tove.errors import CheckpointError, ConfigError, close_matches
from tove.protocols import Model, Row
from tove.registry import ENCODERS, FUNCTIONS, MODELS

__all__ = [
    "StageContext",
    "exported_encoder",
    "load_checkpoint_into",
]


def exported_encoder(encoder: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Give the settings that make an encoder's config read an export instead."""
    settings: dict[str, Any] = ENCODERS.get(encoder["type"]).read_export(folder.resolve())
    return settings


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
        caches: token caches by encoder settings, shared between the stages' models.
        loaders: data loaders of evaluation that are built already, by split.
        terms: of the experts that the run's stages run.
    """

    cfg: Config
    work_dir: Path
    rows: list[Row] = field(default_factory=list)
    resume: bool = False
    amp: bool = False
    distributed: bool = False
    checkpoint: Path | None = None
    files: dict[Path, str] = field(default_factory=dict)
    caches: dict[str, Any] = field(default_factory=dict)
    loaders: dict[str, DataLoader] = field(default_factory=dict)
    terms: list[Terms] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.cfg.seed

    @property
    def device(self) -> torch.device:
        """Where models run."""
        return torch.device(get_device())

    @property
    def slots(self) -> list[str]:
        """The slots of all configured experts, in the config's order."""
        return list(self.cfg.model.get("experts", {}))

    @property
    def image_size(self) -> int:
        """Side of the square view that the data sets give, in pixels."""
        return int(self.cfg.image_size)

    def folder(self, name: str) -> Path:
        """Give a stage's folder."""
        return self.work_dir / name

    def model_path(self, name: str) -> Path:
        """Give the checkpoint that a stage starts from: the user's, or what `name` wrote."""
        return self.checkpoint or self.folder(name) / "model.pth"

    def schedule(self, over: Mapping[str, Any] | None = None) -> Schedule:
        """Give the config's schedule with a stage's own settings over it.

        Raises:
            ConfigError: a setting that no schedule has, `steps` left out, or a contradiction.
        """
        settings = merged_settings(plain_settings(self.cfg.schedule), over or {})
        known = [entry.name for entry in fields(Schedule)]
        for key in settings:
            if key not in known:
                raise ConfigError(f"schedule.{key} is unknown. {close_matches(key, known)}")
        if "steps" not in settings:
            raise ConfigError("The schedule says no number of steps; set schedule.steps.")
        return Schedule(**settings)

    def require(self, stage: str, *settings: str) -> None:
        """Check that the config has what a stage reads.

        Raises:
            ConfigError: one of the top-level settings is missing.
        """
        missing = [key for key in settings if key not in self.cfg]
        if missing:
            raise ConfigError(
                f"Stage '{stage}' needs the setting `{missing[0]}`, which the config lacks; "
                "configs/tiny/tove-tiny_scenes.py shows one."
            )

    def arm(self, over: Mapping[str, Any]) -> str:
        """Give the arm of the model with settings laid over it."""
        arm: str = self.model_settings(over).get("arm", "tove")
        return arm

    def check_model(self, over: Mapping[str, Any], where: str) -> None:
        """Check settings that a stage lays over `cfg.model`.

        Raises:
            ConfigError: an argument that the model does not take.
        """
        settings = merged_settings(plain_settings(self.cfg.model), over)
        check_model(MODELS.get(settings["type"]), settings, where)

    def loader(self, kind: str) -> dict[str, Any]:
        """Give the config of a data loader: train, val, test or unlabelled."""
        loader = plain_settings(self.cfg[f"{kind}_dataloader"])
        collate = loader.setdefault("collate_fn", {"type": "tove_collate"})
        # mmengine looks this one up in its root registry, whatever the scope.
        collate["type"] = FUNCTIONS.get(collate["type"])
        return loader

    def evaluation_loader(self, split: str) -> DataLoader:
        """Give the data loader of "test" or "val", built once: its decoded images stay."""
        if split not in self.loaders:
            self.loaders[split] = Runner.build_dataloader(self.loader(split), seed=self.seed)
        return self.loaders[split]

    def evaluator(self) -> list[dict[str, Any]]:
        """Give the configs of the metrics."""
        metrics = plain_settings(self.cfg.test_evaluator)
        metrics = metrics if isinstance(metrics, list) else [metrics]
        if self.distributed:
            for metric in metrics:
                # "gpu" gathers through the process group, gloo's too; "cpu" through files that
                # mmengine puts into the current folder.
                metric.setdefault("collect_device", "gpu")
        return metrics

    def model_settings(self, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Give the model's config with `over` laid over it."""
        return merged_settings(plain_settings(self.cfg.model), plain_settings(over or {}))

    def build_model(
        self, over: Mapping[str, Any] | None = None, slots: Sequence[str] | None = None
    ) -> Model:
        """Build a model from the config, seeded, on the run's device.

        Args:
            over: settings laid over `cfg.model`.
            slots: the experts to have; the others are not built, nor looked for. None has all.

        Raises:
            ConfigError: the config has no such slot.
        """
        settings = self.model_settings(over)
        # The baseline runs no expert, but is as large as the arm with all of them.
        if slots is not None and settings.get("arm", "tove") == "tove":
            experts = settings.get("experts", {})
            missing = [slot for slot in slots if slot not in experts]
            if missing:
                raise ConfigError(
                    f"The checkpoint has an expert '{missing[0]}', but model.experts of the config "
                    f"has {', '.join(experts) or 'none'}; use the config it was trained with."
                )
            settings["experts"] = {slot: experts[slot] for slot in slots}
        _free_finished()
        seed_everything(self.seed)
        model: Model = MODELS.build(settings).to(self.device)
        self._share_cache(model, settings)
        return model

    def _share_cache(self, model: Model, settings: Mapping[str, Any]) -> None:
        """Let models on the same encoder share frozen tokens; the image view is the run's own."""
        if model.cache is None:
            return
        model.cache = self.caches.setdefault(repr(settings["encoder"]), model.cache)

    def load_model(
        self, path: Path, over: Mapping[str, Any] | None = None, slots: Sequence[str] | None = None
    ) -> tuple[Model, dict[str, Any]]:
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
        made_with = dict(meta.get("settings", {}))
        if "export" in meta:
            folder = path.parent / meta["export"]
            made_with["encoder"] = exported_encoder(self.cfg.model.encoder, folder)
        if slots is None:
            slots = attached_slots(checkpoint)
        model = self.build_model(merged_settings(made_with, over or {}), slots)
        for remark in check_provenance(meta.get("experts", {}), provenance_of(model), str(path)):
            print_log(remark, logger="current", level=logging.WARNING)
        check_frozen(meta.get("frozen"), model.frozen, str(path))
        load_checkpoint_into(model, checkpoint, path)
        return model, meta

    def meta(self, model: Model, stage: str, **entries: Any) -> dict[str, Any]:  # noqa: ANN401
        """Give the meta of a checkpoint of `model`."""
        experts = provenance_of(model)
        return {
            "stage": stage,
            "seed": self.seed,
            "experts": experts,
            "attached": list(experts),
            "frozen": dict(model.frozen),
            "licences": [asdict(entry) for entry in self.terms if entry.slot in experts],
            "versions": environment.versions(),
            "cfg": self.cfg.pretty_text,
            **entries,
        }


def _free_finished() -> None:
    """Free the models that are done with: mmengine's Runner and loops hold each other in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_checkpoint_into(model: Model, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Load trained parameters; a refusal names the file.

    Raises:
        CheckpointError: they are of another model.
    """
    try:
        model.load_trainable(checkpoint["state_dict"])
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be loaded. {error}") from error


def provenance_of(model: Model) -> dict[str, dict[str, Any]]:
    """Give name, distribution, version and digest of each attached expert of a model."""
    provenance = model.hub.provenance()
    return {slot: dict(provenance[slot]) for slot in model.hub.attached}
