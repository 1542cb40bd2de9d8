"""What a run is going to need, told from its config and checkpoint alone."""

from collections.abc import Iterator, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.config.overlay import merged_settings, plain_settings
from tove.engine.checkpoint import attached_slots, read_checkpoint
from tove.registry import STAGES

__all__ = ["needed_slots", "run_experts"]


def run_experts(cfg: Config, only: str | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    """Give the experts that a config's stages run, as (slot, config), each once.

    Stages of the arms "plain" and "baseline", and detached slots, run none.

    Args:
        cfg: a checked config.
        only: look at this stage alone.
    """
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for model in _models(cfg, only):
        if model.get("arm", "tove") == "tove":
            for slot, expert in model.get("experts", {}).items():
                if slot not in model.get("detached", ()):
                    found[slot, repr(sorted(expert.items(), key=str))] = expert
    return [(slot, expert) for (slot, _), expert in found.items()]


def _models(cfg: Config, only: str | None) -> Iterator[dict[str, Any]]:
    """Yield the settings of the model that each stage runs: its own, or its source's."""
    entries = {entry["name"]: entry for entry in cfg.stages}
    for name, entry in entries.items():
        kind = STAGES.get(entry["type"]) if isinstance(entry["type"], str) else entry["type"]
        if only not in (None, name) or getattr(kind, "repeats", False):
            continue  # what repeats shows what others have run
        source = signature(kind).parameters.get("source")
        if source is None:
            over = entry.get("model", {})
        else:
            default = "" if source.default is Parameter.empty else source.default
            over = entries.get(entry.get("source", default), {}).get("model", {})
        yield merged_settings(plain_settings(cfg.model), plain_settings(over))


def needed_slots(cfg: Config, checkpoint: Path | None, only: str | None) -> set[str]:
    """Give the slots whose experts have to be there.

    Args:
        cfg: whose stages say what runs.
        checkpoint: what is evaluated, or what the one stage takes its model from; experts that it
            has no parameters for are not needed, unless that stage trains its own.
        only: the one stage that is to run; None with a checkpoint evaluates that.
    """
    kinds = {entry["name"]: STAGES.get(entry["type"]) for entry in cfg.stages}
    starts = kinds.get(only) if only else None
    if checkpoint and (only is None or (starts and "source" in signature(starts).parameters)):
        attached = attached_slots(read_checkpoint(checkpoint))
        if attached is not None:
            return set(attached)
    detached = cfg.model.get("detached", ())
    return {slot for slot in cfg.model.get("experts", {}) if slot not in detached}
