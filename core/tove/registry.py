"""Registries of scope `tove`: the names that a config file can use.

mmengine's `default_scope = "tove"` looks every `type` up in the children below before it falls
back to mmengine's own registries; a kind without a child here would cost a warning per look-up.
`locations` are imported at the first look-up, so that importing this module imports no model code.
"""

from mmengine import registry as root
from mmengine.registry import Registry

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "ENCODERS",
    "EVALUATOR",
    "EXPERTS",
    "FUNCTIONS",
    "HOOKS",
    "INFERENCERS",
    "LANGUAGE_MODELS",
    "LOG_PROCESSORS",
    "LOOPS",
    "METRICS",
    "MODELS",
    "MODEL_WRAPPERS",
    "OPTIMIZERS",
    "OPTIM_WRAPPERS",
    "OPTIM_WRAPPER_CONSTRUCTORS",
    "PARAM_SCHEDULERS",
    "RANKINGS",
    "RUNNERS",
    "RUNNER_CONSTRUCTORS",
    "SCOPE",
    "SECTIONS",
    "STAGES",
    "STRATEGIES",
    "TASKS",
    "TASK_UTILS",
    "TRANSFORMS",
    "VISBACKENDS",
    "VISUALIZERS",
    "WEIGHT_INITIALIZERS",
]

SCOPE = "tove"


def _child(parent: Registry, *locations: str) -> Registry:
    """Make the child of one of mmengine's root registries, filled from `locations` on demand."""
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=list(locations))


RUNNERS = _child(root.RUNNERS)
RUNNER_CONSTRUCTORS = _child(root.RUNNER_CONSTRUCTORS)
LOOPS = _child(root.LOOPS, "tove.engine.train_loop")
HOOKS = _child(
    root.HOOKS,
    "tove.engine.hooks",
    "tove.engine.averaging",
    "tove.engine.part_times",
    "tove.engine.preemption",
)
STRATEGIES = _child(root.STRATEGIES)
DATASETS = _child(root.DATASETS, "tove.data")
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, "tove.data.samplers", "tove.data.shard_sampler")
TRANSFORMS = _child(root.TRANSFORMS)
MODELS = _child(root.MODELS, "tove.methods.tove", "tove.methods.baselines", "tove.methods.move_kd")
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS)
OPTIMIZERS = _child(root.OPTIMIZERS, "tove.engine.muon")
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS)
METRICS = _child(root.METRICS, "tove.evaluation")
EVALUATOR = _child(root.EVALUATOR)
TASK_UTILS = _child(root.TASK_UTILS)
VISUALIZERS = _child(root.VISUALIZERS, "tove.engine.visualizer")
VISBACKENDS = _child(root.VISBACKENDS)
LOG_PROCESSORS = _child(root.LOG_PROCESSORS)
INFERENCERS = _child(root.INFERENCERS, "tove.engine.inferencer")
FUNCTIONS = _child(root.FUNCTIONS, "tove.data")

# How an expert is built is set by the module that fills this registry.
EXPERTS = Registry("expert", scope=SCOPE, locations=["tove.backbones.experts.registration"])
ENCODERS = Registry(
    "encoder",
    scope=SCOPE,
    locations=[
        "tove.backbones.clip.encoder",
        "tove.backbones.transformers_vit",
        "tove.methods.move_kd",
    ],
)
LANGUAGE_MODELS = Registry(
    "language model",
    scope=SCOPE,
    locations=["tove.backbones.language.causal_lm", "tove.backbones.language.chat"],
)
# Functions of (material, settings): the sections of a report, see `tove.report.sections`.
SECTIONS = Registry("section", scope=SCOPE, locations=["tove.report.sections", "tove.methods.tove"])
# Functions: how samples of a task are answered, how experts are ranked for detachment.
TASKS = Registry("task", scope=SCOPE, locations=["tove.methods.answers"])
RANKINGS = Registry("ranking", scope=SCOPE, locations=["tove.engine.stages", "tove.methods.tove"])
STAGES = Registry(
    "stage", scope=SCOPE, locations=["tove.engine.stages", "tove.methods.tove", "tove.report.stage"]
)
