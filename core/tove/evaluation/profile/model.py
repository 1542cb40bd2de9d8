"""What a model costs, in all and part by part.

Parts: the encoder, each expert that runs, the fusion (projector, gate, transfer) and the language
model. Measured is the vision side on one image of the run's size, every expert at its own size:

    flops           floating-point operations, see `flops`; those of the parts add up
    forward_ms      median milliseconds to t_fuse, after warm-up, caches left out
    peak_memory_mb  weights and the tensors alive at one time, in 10^6 bytes, see `memory`

Parameters are counted of all parts, the language model's too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from tove.evaluation.profile.flops import count_flops
from tove.evaluation.profile.memory import peak_bytes
from tove.evaluation.profile.parameters import count_parameters, median_ms
from tove.protocols import Model

__all__ = ["measure_cost"]

Cost = dict[str, Any]

_TOTAL_RUNS, _PART_RUNS = 15, 7


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def measure_cost(model: Model, image_size: int, device: torch.device) -> Cost:
    """Measure a model's vision side as a whole and by parts.

    Args:
        model: whose experts that are attached run.
        image_size: side of the square view that the data sets give.
        device: where the model is.

    Returns:
        A row's trainable_parameters, total_parameters, flops, forward_ms, peak_memory_mb, and
        cost: {device, encoder, experts: {slot: part}, fusion, language}, a part having the same
        five entries; of the language model only the parameters are counted.
    """
    image_BCHW = torch.rand(1, 3, image_size, image_size, device=device)
    with _evaluating(model):
        parts = _parts(model, image_BCHW)
        experts = [model.hub.experts[slot] for slot in model.hub.attached]
        vision = [model.encoder, *experts, *_fusion_modules(model)]
        total = _measured(vision, partial(model.fuse, image_BCHW), device, _TOTAL_RUNS, 3)
    trainable, parameters = count_parameters(model)
    measured = [parts["encoder"], *parts["experts"].values(), parts["fusion"]]
    counts = {"trainable_parameters": trainable, "total_parameters": parameters}
    total |= {**counts, "flops": sum(part["flops"] for part in measured)}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**total, "cost": {"device": name, **parts}}


def _parts(model: Model, image_BCHW: torch.Tensor) -> Cost:
    device = image_BCHW.device
    experts = {slot: model.hub.experts[slot] for slot in model.hub.attached}
    t_clip_BNC = model.encoder(image_BCHW)
    tokens = {slot: expert(image_BCHW) for slot, expert in experts.items()}

    def part(modules: Sequence[nn.Module], step: Callable[[], Any]) -> Cost:
        measured = _measured(modules, step, device, _PART_RUNS, 2)
        return {**_counts(modules), "flops": count_flops(step), **measured}

    return {
        "encoder": part([model.encoder], partial(model.encoder, image_BCHW)),
        "experts": {slot: part([e], partial(e, image_BCHW)) for slot, e in experts.items()},
        "fusion": part(_fusion_modules(model), partial(model.fuse_tokens, t_clip_BNC, tokens)),
        "language": _counts([model.language]),
    }


def _measured(
    modules: Sequence[nn.Module],
    step: Callable[[], Any],
    device: torch.device,
    runs: int,
    warm_up: int,
) -> Cost:
    """Time a call, and only then, its libraries warm, account for its memory."""
    milliseconds = median_ms(step, device, runs, warm_up)
    return {
        "forward_ms": round(milliseconds, 4),
        "peak_memory_mb": round(peak_bytes(step, modules) / 1e6, 4),
    }


def _counts(modules: Sequence[nn.Module]) -> Cost:
    trainable, total = count_parameters(nn.ModuleList(modules))
    return {"trainable_parameters": trainable, "total_parameters": total}


def _fusion_modules(model: Model) -> list[nn.Module]:
    """Give what joins the tokens; arms without experts lack some of it."""
    named = dict(model.named_children())
    return [named[name] for name in ("projector", "gate", "transfer") if name in named]
