"""The models of a run: built from its config, rehearsed, loaded, and what is noted of them."""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from tove.backbones.experts.licences import Terms
from tove.backbones.export_folder import MARK
from tove.config import environment
from tove.config.text import text_of
from tove.config.upgrade import upgraded_model
from tove.data.annotations import read_json
from tove.engine.checkpoint import attached_slots, read_checkpoint
from tove.engine.digests import lost_files
from tove.engine.fingerprints import check_frozen
from tove.engine.planning import method_settings
from tove.engine.provenance import check_provenance
from tove.engine.rows import WRITTEN
from tove.engine.seeding import seed_everything
from tove.engine.trainable_state import put_back_trained
from tove.errors import CheckpointError, ConfigError
from tove.protocols import Method
from tove.registry import ENCODERS, MODELS

__all__ = ["RunModels", "check_method", "exported_encoder", "load_checkpoint_into"]


def exported_encoder(encoder: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings that make an encoder's config read an export instead."""
    settings: dict[str, Any] = ENCODERS.get(encoder["type"]).read_export(folder.resolve())
    about = read_json(str(folder / MARK), WRITTEN, hint=dict)
    kind = about.get("type")  # of what its source's cannot read
    return settings if kind is None else settings | {"type": kind}


@dataclass
class RunModels:
    """Builds and loads the models of a run's stages.

    Args:
        cfg: the whole config, data roots filled in.
        keeps_tokens: whether models have their config's token cache.
        caches: token caches by encoder settings, shared between the stages' models.
        terms: of the experts that the run's stages run.
        device: where models run.
    """

    cfg: Config
    keeps_tokens: bool = field(default=True, kw_only=True)
    caches: dict[str, Any] = field(default_factory=dict, kw_only=True)
    terms: list[Terms] = field(default_factory=list, kw_only=True)
    device: torch.device = field(default_factory=lambda: torch.device(get_device()), kw_only=True)
    _rehearsed: tuple[dict[str, Any], Method] | None = field(default=None, init=False)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.cfg.seed

    def model_settings(self, over: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the model's config with `over` laid over it."""
        return method_settings(self.cfg.model, over or {})

    def kind_of(self, over: Mapping[str, Any] | None = None) -> type[Method]:
        """Return the class of the model that has `over` laid over its config."""
        kind: type[Method] = MODELS.get(self.model_settings(over)["type"])
        return kind

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
            "cfg": text_of(self.cfg),
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

    An encoder of the checkpoint's own has other tokens than those that the run's models share.

    Raises:
        CheckpointError: they are of another model.
    """
    state: Mapping[str, Any] = checkpoint["state_dict"]
    try:
        model.load_trainable(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be loaded. {error}") from error
    if model.cache is not None and any(name.startswith("encoder.") for name in state):
        model.cache = model.cache.anew()
