"""The stages of a run, each a module: transfer, detach, merge, report."""

from tove.stages.context import Stage, StageContext
from tove.stages.detach import DetachStage
from tove.stages.merge import MergeStage
from tove.stages.report import ReportStage
from tove.stages.transfer import TransferStage

__all__ = [
    "DetachStage",
    "MergeStage",
    "ReportStage",
    "Stage",
    "StageContext",
    "TransferStage",
]
