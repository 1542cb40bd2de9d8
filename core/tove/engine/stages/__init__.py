"""What a run is made of: training a model, taking it apart, exporting it."""

from tove.engine.stages import rankings
from tove.engine.stages.context import StageContext
from tove.engine.stages.contribution import ContributionStage
from tove.engine.stages.detach import DetachStage
from tove.engine.stages.export import ExportStage
from tove.engine.stages.train import TrainStage
from tove.protocols import Stage

__all__ = [
    "ContributionStage",
    "DetachStage",
    "ExportStage",
    "Stage",
    "StageContext",
    "TrainStage",
    "rankings",
]
