"""A stage's training as a plan looks at it."""

from dataclasses import dataclass
from typing import Any

from tove.engine.optimizer import Schedule

__all__ = ["PlannedTraining"]


@dataclass(frozen=True, slots=True)
class PlannedTraining:
    """What a stage is going to train, and how long.

    Attributes:
        model: as it trains, what of it trains chosen.
        schedule: of the training.
        loader: the name of the data loader that it draws from.
    """

    model: Any
    schedule: Schedule
    loader: str
