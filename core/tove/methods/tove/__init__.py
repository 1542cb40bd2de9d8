"""ToVE (ICLR 2025, arXiv 2504.00691): gate, residual transfer, detachment, merging."""

from tove.methods.tove.gate_ranking import mean_gate_weights
from tove.methods.tove.merge_stage import MergeStage
from tove.methods.tove.merging import Merge
from tove.methods.tove.model import ToVE
from tove.methods.tove.report import gate_section

__all__ = ["Merge", "MergeStage", "ToVE", "gate_section", "mean_gate_weights"]
