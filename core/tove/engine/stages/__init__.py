"""What a run is made of: training one model, and what every stage shares."""

from tove.engine.stages.context import StageContext
from tove.engine.stages.train import TransferStage
from tove.protocols import Stage

__all__ = ["Stage", "StageContext", "TransferStage"]
