"""The optimiser over what trains, and its schedule: linear warm-up, then a cosine to zero.

    lr(t) = lr . t / warmup                                   for t < warmup
    lr(t) = lr . (1 + cos(pi (t - warmup)/(steps - warmup)))/2   after it

mmengine's own constructor hands frozen parameters to the optimiser as well: memory for nothing, and
weight decay on tensors that must not move.
"""

from dataclasses import dataclass
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from tove.errors import ConfigError
from tove.registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ["Schedule", "TrainableOnlyConstructor", "optim_wrapper_cfg", "param_scheduler_cfg"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One stage's training schedule.

    Args:
        steps: optimiser steps; 0 evaluates without training.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        weight_decay: of AdamW, on matrices only; biases, norms and scalars are not decayed.
        clip: largest norm of the gradient; None does not clip.
        betas: of AdamW.
        checkpoint_interval: steps between resumable checkpoints.
        keep_checkpoints: how many of them stay.
        log_interval: steps between lines on the console.
        val_interval: steps between evaluations on the validation split; 0 for none.
    """

    steps: int
    lr: float = 3e-4
    warmup: int = 0
    weight_decay: float = 0.05
    clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    checkpoint_interval: int = 100
    keep_checkpoints: int = 2
    log_interval: int = 50
    val_interval: int = 0

    def __post_init__(self) -> None:
        """Check the numbers against each other."""
        if self.steps < 0 or (self.steps and self.warmup >= self.steps):
            raise ConfigError(
                f"A schedule of {self.steps} steps cannot warm up for {self.warmup}; set "
                "schedule.warmup below schedule.steps."
            )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOnlyConstructor:
    """Builds the optimiser over parameters that require a gradient, each once.

    Args:
        optim_wrapper_cfg: mmengine's dict, its key `optimizer` included.
        paramwise_cfg: unused; the constructor protocol of mmengine passes it.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.optim_wrapper_cfg.pop("optimizer"))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper.

        Raises:
            ConfigError: nothing of the model trains.
        """
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            raise ConfigError(
                f"Nothing of {type(model).__name__} requires a gradient, so there is nothing to "
                "train; set schedule.steps=0 to evaluate it only."
            )
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer_cfg["params"] = [group for group in groups if group["params"]]
        optimizer = OPTIMIZERS.build(self.optimizer_cfg)
        self.optim_wrapper_cfg.setdefault("type", "OptimWrapper")
        return OPTIM_WRAPPERS.build(self.optim_wrapper_cfg, default_args={"optimizer": optimizer})


def optim_wrapper_cfg(schedule: Schedule, amp: bool = False) -> dict[str, Any]:
    """Give mmengine's optimiser config of a schedule."""
    cfg: dict[str, Any] = {
        "type": "AmpOptimWrapper" if amp else "OptimWrapper",
        "constructor": "tove.TrainableOnlyConstructor",
        "optimizer": {
            "type": "AdamW",
            "lr": schedule.lr,
            "betas": schedule.betas,
            "weight_decay": schedule.weight_decay,
            "fused": True,  # one call for all parameters: on a CPU the loop costs a tenth of a step
        },
    }
    if schedule.clip is not None:
        cfg["clip_grad"] = {"max_norm": schedule.clip}
    return cfg


def param_scheduler_cfg(schedule: Schedule) -> list[dict[str, Any]]:
    """Give mmengine's learning-rate schedulers of a schedule."""
    warmup, steps = schedule.warmup, schedule.steps
    cosine = {
        "type": "CosineAnnealingLR",
        "by_epoch": False,
        "begin": warmup,
        "end": steps,
        "T_max": steps - warmup,
        "eta_min": 0.0,
    }
    if not warmup:
        return [cosine]
    linear = {
        "type": "LinearLR",
        "by_epoch": False,
        "begin": 0,
        "end": warmup,
        "start_factor": 1.0 / (warmup + 1),
    }
    return [linear, cosine]
