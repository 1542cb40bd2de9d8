"""ToVE (ICLR 2025, arXiv 2504.00691): gate, residual transfer, detachment, merging."""

from tove.methods.tove.detach import DetachStage
from tove.methods.tove.merge_stage import MergeStage
from tove.methods.tove.merging import Merge
from tove.methods.tove.model import ToVE

__all__ = ["DetachStage", "Merge", "MergeStage", "ToVE"]
