"""What a third party's method imports of the engine: this list of names, and nothing else.

    from tove.api import MODELS, Fused, VisionLanguageModel

The list and what its names promise are a contract with the version `API_VERSION`; docs/api.md says
what may change when. Each name is imported from its module when it is first asked for, so that
importing this module costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tove_plugins import METHOD_API_VERSION

if TYPE_CHECKING:
    from tove.backbones.experts.hub import ExpertHub
    from tove.data.image_dataset import ImageDataset
    from tove.engine.checkpoint import save_checkpoint
    from tove.engine.stages.context import StageContext
    from tove.engine.stages.detach import DetachStage
    from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
    from tove.engine.stages.export import ExportStage
    from tove.engine.stages.train import TrainStage
    from tove.engine.trainable_state import choose_trained
    from tove.errors import CheckpointError, ConfigError, TrainingError, close_matches
    from tove.methods.projected_experts import ProjectedExperts, make_projector
    from tove.methods.tove.expert_dropout import draw_dropped
    from tove.methods.tove.gate import TokenGate
    from tove.methods.tove.model import ToVE
    from tove.methods.tove.transfer import ResidualTransfer
    from tove.methods.vision_language_model import Fused, VisionLanguageModel
    from tove.modules.projector import Projector
    from tove.modules.resample import resample_tokens
    from tove.protocols import CostPart, Method, OnOtherExperts, Role, Row, Sample, Stage
    from tove.registry import (
        DATASETS,
        ENCODERS,
        EXPERTS,
        FUNCTIONS,
        HOOKS,
        LANGUAGE_MODELS,
        METRICS,
        MODELS,
        OPTIM_WRAPPERS,
        OPTIMIZERS,
        PARAM_SCHEDULERS,
        RANKINGS,
        STAGES,
        TASKS,
        TRANSFORMS,
    )
    from tove.report.page import Section, Table, section
    from tove.report.report_data import Material
    from tove.report.theme import Picture, Theme, draw

API_VERSION = METHOD_API_VERSION
"""The version of this list; a `MethodSpec` says by `api` which one it was written for."""

_NAMES = {
    "tove.backbones.experts.hub": ("ExpertHub",),
    "tove.data.image_dataset": ("ImageDataset",),
    "tove.engine.checkpoint": ("save_checkpoint",),
    "tove.engine.stages.context": ("StageContext",),
    "tove.engine.stages.detach": ("DetachStage",),
    "tove.engine.stages.evaluate_row": (
        "evaluation_runner",
        "measure_row",
    ),
    "tove.engine.stages.export": ("ExportStage",),
    "tove.engine.stages.train": ("TrainStage",),
    "tove.engine.trainable_state": ("choose_trained",),
    "tove.errors": (
        "CheckpointError",
        "ConfigError",
        "TrainingError",
        "close_matches",
    ),
    "tove.methods.tove.expert_dropout": ("draw_dropped",),
    "tove.methods.tove.gate": ("TokenGate",),
    "tove.methods.projected_experts": ("ProjectedExperts", "make_projector"),
    "tove.methods.tove.model": ("ToVE",),
    "tove.methods.tove.transfer": ("ResidualTransfer",),
    "tove.methods.vision_language_model": (
        "Fused",
        "VisionLanguageModel",
    ),
    "tove.modules.projector": ("Projector",),
    "tove.modules.resample": ("resample_tokens",),
    "tove.protocols": (
        "CostPart",
        "Method",
        "OnOtherExperts",
        "Role",
        "Row",
        "Sample",
        "Stage",
    ),
    "tove.registry": (
        "DATASETS",
        "ENCODERS",
        "EXPERTS",
        "FUNCTIONS",
        "HOOKS",
        "LANGUAGE_MODELS",
        "METRICS",
        "MODELS",
        "OPTIMIZERS",
        "OPTIM_WRAPPERS",
        "PARAM_SCHEDULERS",
        "RANKINGS",
        "STAGES",
        "TASKS",
        "TRANSFORMS",
    ),
    "tove.report.page": (
        "Section",
        "Table",
        "section",
    ),
    "tove.report.report_data": ("Material",),
    "tove.report.theme": (
        "Picture",
        "Theme",
        "draw",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "API_VERSION",
    "DATASETS",
    "ENCODERS",
    "EXPERTS",
    "FUNCTIONS",
    "HOOKS",
    "LANGUAGE_MODELS",
    "METRICS",
    "MODELS",
    "OPTIMIZERS",
    "OPTIM_WRAPPERS",
    "PARAM_SCHEDULERS",
    "RANKINGS",
    "STAGES",
    "TASKS",
    "TRANSFORMS",
    "CheckpointError",
    "ConfigError",
    "CostPart",
    "DetachStage",
    "ExpertHub",
    "ExportStage",
    "Fused",
    "ImageDataset",
    "Material",
    "Method",
    "OnOtherExperts",
    "Picture",
    "ProjectedExperts",
    "Projector",
    "ResidualTransfer",
    "Role",
    "Row",
    "Sample",
    "Section",
    "Stage",
    "StageContext",
    "Table",
    "Theme",
    "ToVE",
    "TokenGate",
    "TrainStage",
    "TrainingError",
    "VisionLanguageModel",
    "choose_trained",
    "close_matches",
    "draw",
    "draw_dropped",
    "evaluation_runner",
    "make_projector",
    "measure_row",
    "resample_tokens",
    "save_checkpoint",
    "section",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the list
    if name not in _MODULES:
        from tove.errors import close_matches

        raise AttributeError(
            f"tove.api has no name '{name}'. {close_matches(name, _MODULES)} docs/api.md lists "
            "what a method may import."
        )
    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found  # the next look-up finds it at once
    return found


def __dir__() -> list[str]:
    return list(__all__)
