"""The optimiser over what trains, and its schedule: linear warm-up, then a cosine to zero.

    lr(t) = lr . (t + 1) / (warmup + 1)                          for t < warmup, from step 0
    lr(t) = lr . (1 + cos(pi (t - warmup)/(steps - warmup)))/2   after it

mmengine's own constructor hands frozen parameters to the optimiser as well: memory for nothing, and
weight decay on tensors that must not move.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tove.config.overlay import merged_settings
from tove.config.validation import Range
from tove.engine.distributed import unwrapped
from tove.engine.muon import MuonAdamW, split_for_muon
from tove.engine.quiet import errors_only
from tove.engine.sharding import scattered_like
from tove.errors import ConfigError
from tove.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

__all__ = [
    "DeferredAmpOptimWrapper",
    "DeferredOptimWrapper",
    "Schedule",
    "TrainableOnlyConstructor",
    "check_trains",
    "optim_wrapper_cfg",
    "param_scheduler_cfg",
    "parameter_groups",
]


_Beta = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True, slots=True)
class Schedule:
    """One stage's training schedule.

    Args:
        steps: optimiser steps; 0 evaluates without training.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        weight_decay: on matrices only; biases, norms and scalars are not decayed.
        clip: largest norm of the gradient; None does not clip.
        betas: of AdamW.
        optimizer: "AdamW", or "MuonAdamW", which moves linear layers by Muon: `tove.engine.muon`.
        checkpoint_interval: steps between resumable checkpoints.
        keep_checkpoints: how many of them stay.
        log_interval: steps between lines on the console.
        val_interval: steps between evaluations on the validation split; 0 for none.
        amp_dtype: "float16" or "bfloat16", of mixed precision (`--amp`).
    """

    steps: Annotated[int, Range(0)]
    lr: Annotated[float, Range(0, above=True)] = 3e-4
    warmup: Annotated[int, Range(0)] = 0
    weight_decay: Annotated[float, Range(0)] = 0.05
    clip: Annotated[float, Range(0, above=True)] | None = 1.0
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    optimizer: Literal["AdamW", "MuonAdamW"] = "AdamW"
    checkpoint_interval: Annotated[int, Range(1)] = 100
    keep_checkpoints: Annotated[int, Range(1)] = 2
    log_interval: Annotated[int, Range(1)] = 50
    val_interval: Annotated[int, Range(0)] = 0
    amp_dtype: Literal["float16", "bfloat16"] = "float16"


class _Deferred:
    """Clips without reading the gradient's norm: mmengine's wrappers wait for it at each step."""

    grad_norm: Tensor | None = None
    """Of the last step, before clipping, on its device; `LossCurveHook` reads it."""

    def _clip_grad(self: Any) -> None:
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"] if p.grad is not None]
        norm = self.clip_func(parameters, **self.clip_grad_kwargs)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        """Load whole tensors, of which a sharded parameter takes its own part."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state_dict["state"] = {
            index: {
                name: scattered_like(value, parameters[index]) if torch.is_tensor(value) else value
                for name, value in entries.items()
            }
            for index, entries in state_dict["state"].items()
        }
        super().load_state_dict(state_dict)  # type: ignore[misc]


@OPTIM_WRAPPERS.register_module()
class DeferredOptimWrapper(_Deferred, OptimWrapper):
    """mmengine's OptimWrapper, its gradient norm left on the device as `grad_norm`."""


@OPTIM_WRAPPERS.register_module()
class DeferredAmpOptimWrapper(_Deferred, AmpOptimWrapper):
    """mmengine's AmpOptimWrapper, its gradient norm left on the device as `grad_norm`.

    mmengine's asks for an accelerator; in bfloat16, which needs no scaled loss, a CPU will do.

    Args:
        loss_scale: see mmengine.
        dtype: of autocast, by name.
        **options: of `OptimWrapper`.
    """

    def __init__(
        self,
        loss_scale: Any = "dynamic",  # noqa: ANN401 - mmengine's
        dtype: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if get_device() != "cpu":
            super().__init__(loss_scale, dtype, **options)
            return
        OptimWrapper.__init__(self, **options)
        self.loss_scaler = torch.amp.GradScaler("cpu", enabled=False)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TrainableOnlyConstructor:
    """Builds the optimiser over parameters that require a gradient, each once.

    Matrices are decayed, biases, norms and scalars are not.

    Args:
        optim_wrapper_cfg: mmengine's dict, its key `optimizer` included.
        paramwise_cfg: mmengine's multipliers by parameter; with any, its own groups take the place
            of ours, frozen parameters left out.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.optim_wrapper_cfg.pop("optimizer"))
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper.

        Raises:
            ConfigError: nothing of the model trains.
        """
        check_trains(model)
        groups = self._groups(model)
        kind = self.optimizer_cfg["type"]
        if (OPTIMIZERS.get(kind) if isinstance(kind, str) else kind) is MuonAdamW:
            groups = split_for_muon(groups, model)
        self.optimizer_cfg["params"] = groups
        optimizer = OPTIMIZERS.build(self.optimizer_cfg)
        self.optim_wrapper_cfg.setdefault("type", "DeferredOptimWrapper")
        return OPTIM_WRAPPERS.build(self.optim_wrapper_cfg, default_args={"optimizer": optimizer})

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        if not self.paramwise_cfg:
            return parameter_groups(model)
        cfg = {"type": "OptimWrapper", "optimizer": self.optimizer_cfg}
        constructor = DefaultOptimWrapperConstructor(cfg, dict(self.paramwise_cfg))
        groups: list[dict[str, Any]] = []
        with errors_only():  # it warns of every frozen parameter
            constructor.add_params(groups, unwrapped(model))
        return [group for group in groups if group["params"][0].requires_grad]


def check_trains(model: Any) -> None:  # noqa: ANN401 - a method or what wraps it
    """Refuse a model of which nothing trains.

    Raises:
        ConfigError: no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"Nothing of {type(model).__name__} requires a gradient, so there is nothing to train; "
            "set schedule.steps=0 to evaluate it only."
        )


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return what trains as the optimiser's groups: matrices, then the rest, not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1]},
        {
            "params": [parameter for parameter in trained if parameter.ndim <= 1],
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def optim_wrapper_cfg(
    schedule: Schedule, amp: bool = False, own: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return mmengine's optimiser config of a schedule.

    Args:
        schedule: fills in what `own` does not say.
        amp: mixed precision.
        own: `optim_wrapper` of the config. An optimiser of another type takes the schedule's rate
            and nothing else of it.
    """
    own = dict(own or {})
    cfg: dict[str, Any] = {
        "type": "DeferredAmpOptimWrapper" if amp else "DeferredOptimWrapper",
        "constructor": "tove.TrainableOnlyConstructor",
        "optimizer": {
            "type": schedule.optimizer,
            "lr": schedule.lr,
            "betas": schedule.betas,
            "weight_decay": schedule.weight_decay,
            "fused": True,  # one call for all parameters: on a CPU the loop costs a tenth of a step
        },
    }
    if amp:
        cfg["dtype"] = schedule.amp_dtype
    if schedule.clip is not None:
        cfg["clip_grad"] = {"max_norm": schedule.clip}
    optimizer = own.get("optimizer", {})
    if optimizer.get("type", schedule.optimizer) != schedule.optimizer:
        cfg["optimizer"] = {"lr": schedule.lr}
    if own.get("type") in ("OptimWrapper", "AmpOptimWrapper"):  # ours are these, without waiting
        own["type"] = f"Deferred{own['type']}"
    return merged_settings(cfg, own)


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
        "end": warmup + 1,  # mmengine counts the step that has the whole rate
        "start_factor": 1.0 / (warmup + 1),
    }
    return [linear, cosine]
