"""How long a training takes: by its operations and a given rate, or by a few steps that are run."""

from typing import Any

import torch
from mmengine.config import Config

from tove.engine.optimizer import Schedule, TrainableOnlyConstructor, optim_wrapper_cfg
from tove.engine.plan.options import PlanOptions, context_of, training_stages
from tove.engine.plan.shape_step import made_up_batch, step_of
from tove.engine.plan.training import PlannedTraining
from tove.evaluation.profile.parameters import median_ms

__all__ = ["seconds_of"]

_PROBED = 5  # steps


def seconds_of(
    cfg: Config,
    stage: Any,  # noqa: ANN401 - a stage
    schedule: Schedule,
    batch_size: int,
    options: PlanOptions,
    flops: tuple[int | None, int | None],
) -> tuple[float | None, str]:
    """Return how long a training takes, data and evaluations left out, and what says so.

    Args:
        cfg: the whole config, for the probe.
        stage: that trains.
        schedule: of the training.
        batch_size: of each process.
        options: of the user.
        flops: of one image in a step, live and with frozen tokens known.
    """
    if options.probe:
        milliseconds, device = _probe(cfg, stage.name, batch_size, options)
        return (
            schedule.steps * milliseconds / 1e3,
            f"{milliseconds:.1f} ms a step, here on {device}",
        )
    if options.tflops is None or flops[0] is None:
        return None, ""
    seconds = schedule.steps * batch_size * flops[0] / (options.tflops * 1e12)
    return seconds, f"operations at {options.tflops:g} TFLOP/s a device, as given"


def _probe(cfg: Config, name: str, batch_size: int, options: PlanOptions) -> tuple[float, str]:
    """Return the milliseconds of a training step here, weights loaded, and the device's name."""
    context = context_of(cfg)
    (stage,) = training_stages(cfg, name)
    planned: PlannedTraining = stage.planned(context)
    device = context.device
    model = planned.model.to(device)
    images, samples = made_up_batch(batch_size, context.image_size, options.words, device)
    forward, _ = step_of(model, images, samples)
    own = context.runner_settings(getattr(stage, "runner", {})).get("optim_wrapper")
    settings = optim_wrapper_cfg(planned.schedule, options.amp, own)
    settings.pop("constructor")
    wrapper = TrainableOnlyConstructor(settings)(model)

    def step() -> None:
        with wrapper.optim_context(model):
            loss = forward()
        wrapper.update_params(loss)

    told = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return median_ms(step, device, _PROBED, 2), told
