"""What a run is going to need, told from its config and checkpoint alone.

A stage that takes another one's model (`source`) runs that model, with its own `model` laid over it
where it has one. What a stage leaves may be another model than it ran (a merge leaves plain CLIP
around a new encoder): its class says so by `leaves`.
"""

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.config.overlay import merged_settings, plain_settings
from tove.config.upgrade import upgraded_model
from tove.config.validation import accepted_arguments, look_up
from tove.engine.checkpoint import attached_slots, read_checkpoint
from tove.registry import MODELS, STAGES

__all__ = [
    "left_overlay",
    "method_settings",
    "needed_slots",
    "run_encoders",
    "run_experts",
    "run_overlay",
    "source_of",
    "stage_kind",
]


def method_settings(
    base: Mapping[str, Any], over: Mapping[str, Any], where: str = "model"
) -> dict[str, Any]:
    """Lay settings over those of a model; one of another type takes of the base what it knows.

    So do the parts that it builds, such as another transfer.

    Args:
        base: `cfg.model`, or settings that lie over it.
        over: a stage's `model`.
        where: the place of `over` in the config, for messages.

    Raises:
        ConfigError: there is no such type.
    """
    base, over = plain_settings(base), plain_settings(over)
    if "type" in over and over["type"] != base.get("type"):
        kind = look_up(MODELS, over["type"], where)
        base = _known(kind, base)
        for name, (part, _) in getattr(kind, "sections", {}).items():
            if isinstance(base.get(name), Mapping):
                base[name] = _known(part, base[name])
    return merged_settings(base, over)


def _known(target: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    known = accepted_arguments(target)
    return {key: value for key, value in settings.items() if known is None or key in known}


def source_of(entry: Mapping[str, Any]) -> str | None:
    """Return the stage that a stage takes its model from; None if it takes none."""
    source = signature(stage_kind(entry)).parameters.get("source")
    if source is None:
        return None
    default = None if source.default is Parameter.empty else source.default
    return entry.get("source", default)


def run_overlay(cfg: Config, name: str) -> dict[str, Any]:
    """Return what lies over `cfg.model` in the model that a stage runs."""
    entry = next(entry for entry in cfg.stages if entry["name"] == name)
    names = [other["name"] for other in cfg.stages]
    source = source_of(entry)
    earlier = source in names[: names.index(name)]
    base = left_overlay(cfg, source) if source and earlier else {}
    own = entry.get("model") if getattr(stage_kind(entry), "overlays_model", False) else None
    return method_settings(base, own or {}, f"stages.{name}.model")


def left_overlay(cfg: Config, name: str) -> dict[str, Any]:
    """Return what lies over `cfg.model` in the model that a stage leaves."""
    entry = next(entry for entry in cfg.stages if entry["name"] == name)
    return method_settings(run_overlay(cfg, name), getattr(stage_kind(entry), "leaves", {}))


def stage_kind(entry: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the class of a stage's entry."""
    return STAGES.get(entry["type"]) if isinstance(entry["type"], str) else entry["type"]


def run_experts(cfg: Config, only: str | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the experts that a config's stages run, as (slot, config), each once.

    Args:
        cfg: a checked config.
        only: look at this stage alone.
    """
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for settings in _run_models(cfg, only):
        for slot, expert in MODELS.get(settings["type"]).experts_of(settings).items():
            found[slot, repr(sorted(expert.items(), key=str))] = expert
    return [(slot, expert) for (slot, _), expert in found.items()]


def run_encoders(cfg: Config, only: str | None = None) -> list[Mapping[str, Any]]:
    """Return the configs of the encoders that a config's stages run; see `run_experts`."""
    return [settings["encoder"] for settings in _run_models(cfg, only) if "encoder" in settings]


def _run_models(cfg: Config, only: str | None) -> Iterator[dict[str, Any]]:
    for entry in cfg.stages:
        if only not in (None, entry["name"]) or getattr(stage_kind(entry), "repeats", False):
            continue  # what repeats shows what others have run
        yield method_settings(cfg.model, run_overlay(cfg, entry["name"]))


def needed_slots(cfg: Config, checkpoint: Path | None, only: str | None) -> set[str]:
    """Return the slots whose experts have to be there.

    Args:
        cfg: whose stages say what runs.
        checkpoint: what is evaluated, or what the one stage takes its model from; experts that it
            has no parameters for are not needed, unless that stage trains its own.
        only: the one stage that is to run; None with a checkpoint evaluates that.
    """
    starts = next((stage_kind(entry) for entry in cfg.stages if entry["name"] == only), None)
    trains_own = starts is not None and getattr(starts, "overlays_model", False)
    takes_model = starts is not None and "source" in signature(starts).parameters
    if checkpoint and (only is None or (takes_model and not trains_own)):
        saved = read_checkpoint(checkpoint)
        made_with = method_settings(cfg.model, upgraded_model(saved["meta"].get("settings", {})))
        if MODELS.get(made_with["type"]).teachers_only:
            return set()
        attached = attached_slots(saved)
        if attached is not None:
            return set(attached)
    detached = cfg.model.get("detached", ())
    return {slot for slot in cfg.model.get("experts", {}) if slot not in detached}
