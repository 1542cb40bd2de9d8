"""MoVE-KD (CVPR 2025, arXiv 2501.01709): many teachers distilled into one CLIP with MoLE."""

from tove.methods.move_kd.attention_weights import (
    class_attention,
    teacher_weights,
    token_weights,
    with_clip_share,
)
from tove.methods.move_kd.balance import routing_balance
from tove.methods.move_kd.loss import Distillation, distillation_loss, token_errors
from tove.methods.move_kd.model import MoVEKD
from tove.methods.move_kd.mole import MoLE, record_routing
from tove.methods.move_kd.mole_clip import MoLECLIP
from tove.methods.move_kd.mole_injection import inject_mole, mole_layers
from tove.methods.move_kd.presets import PRESETS, Switches, read_switches
from tove.methods.move_kd.teacher_adapter import make_adapter, output_variance
from tove.methods.move_kd.teacher_dropping import kept_teachers

__all__ = [
    "PRESETS",
    "Distillation",
    "MoLE",
    "MoLECLIP",
    "MoVEKD",
    "Switches",
    "class_attention",
    "distillation_loss",
    "inject_mole",
    "kept_teachers",
    "make_adapter",
    "mole_layers",
    "output_variance",
    "read_switches",
    "record_routing",
    "routing_balance",
    "teacher_weights",
    "token_errors",
    "token_weights",
    "with_clip_share",
]
