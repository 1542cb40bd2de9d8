"""What a plan is asked, and the stages that it is about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from tove.engine.stages.context import StageContext
from tove.errors import ConfigError, close_matches
from tove.registry import STAGES

__all__ = ["PlanOptions", "context_of", "training_stages"]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the user knows beside the config.

    Attributes:
        stage: plan this stage alone.
        images: whose tokens a cache is to hold, in all views that data sets have of one; None is as
            many as the longest training draws.
        words: of the text of a sample.
        gpus: processes, each on a device.
        amp: mixed precision.
        tflops: that one device sustains, in 10^12 operations a second.
        probe: time steps here; weights are needed.
        price: of one device for an hour.
    """

    stage: str | None = None
    images: int | None = None
    words: int = 32
    gpus: int = 1
    amp: bool = False
    tflops: float | None = None
    probe: bool = False
    price: float | None = None


def context_of(cfg: Config, device: torch.device | None = None) -> StageContext:
    """Return a context whose models have no token cache, on a device; None is the run's."""
    context = StageContext(cfg=cfg, work_dir=Path(cfg.work_dir).resolve(), keeps_tokens=False)
    context.device = device or context.device
    return context


def training_stages(cfg: Config, only: str | None) -> list[Any]:
    """Build the stages that train.

    Args:
        cfg: the config.
        only: the stage of this name alone.

    Raises:
        ConfigError: there is none.
    """
    names = [entry["name"] for entry in cfg.stages]
    if only is not None and only not in names:
        raise ConfigError(f"No stage is called '{only}'. {close_matches(only, names)}")
    built = [STAGES.build(dict(entry)) for entry in cfg.stages if only in (None, entry["name"])]
    stages = [stage for stage in built if hasattr(stage, "planned")]
    if not stages:
        raise ConfigError(
            "None of the stages trains anything that could be planned; name one that does, such "
            "as a TrainStage."
        )
    return stages
