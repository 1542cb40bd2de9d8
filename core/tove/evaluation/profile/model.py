"""What a model costs, in all and part by part.

A method says what its parts are: the encoder, each expert that runs, what joins their tokens, the
language model. Measured is the vision side on one image of the run's size, every expert at its own
size:

    flops           floating-point operations, see `flops`; those of the parts add up
    forward_ms      median milliseconds to t_fuse, after warm-up, caches left out
    peak_memory_mb  weights and the tensors alive at one time, in 10^6 bytes, see `memory`
    vision_tokens   tokens that the language model reads for one image

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
from tove.protocols import CostPart

__all__ = ["measure_cost", "measure_joining"]

Cost = dict[str, Any]

_TOTAL_RUNS, _PART_RUNS = 15, 7
_EXPERT = "experts."


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def measure_cost(model: Any, image_size: int, device: torch.device) -> Cost:  # noqa: ANN401
    """Measure a model's vision side as a whole and by parts.

    Args:
        model: a method's; see `tove.protocols.Method.cost_parts`.
        image_size: side of the square view that the data sets give.
        device: where the model is.

    Returns:
        A row's trainable_parameters, total_parameters, flops, forward_ms, peak_memory_mb,
        vision_tokens, and cost: {device, experts: {slot: part}} with every other part by its name,
        a part having the same costs; of one that runs on no image only parameters are counted.
    """
    image_BCHW = torch.rand(1, 3, image_size, image_size, device=device)
    with _evaluating(model):
        parts = model.cost_parts(image_BCHW)
        measured = {name: _part(part, device) for name, part in parts.items()}
        vision = [module for part in parts.values() if part.step for module in part.modules]
        whole = partial(model, image_BCHW)
        total = _measured(vision, whole, device, _TOTAL_RUNS, 3)
        num_tokens = whole().shape[1]
    trainable, parameters = count_parameters(model)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    experts = {n.removeprefix(_EXPERT): p for n, p in measured.items() if n.startswith(_EXPERT)}
    others = {n: part for n, part in measured.items() if not n.startswith(_EXPERT)}
    return {
        **total,
        "trainable_parameters": trainable,
        "total_parameters": parameters,
        "flops": sum(part.get("flops", 0) for part in measured.values()),
        "vision_tokens": num_tokens,
        "cost": {"device": name, **others, "experts": experts},
    }


@torch.no_grad()
def measure_joining(model: Any, image_size: int, device: torch.device) -> Cost:  # noqa: ANN401
    """Measure what of a model's vision side is neither the encoder nor an expert.

    It depends on which experts run; the others' costs do not.

    Args:
        model: see `measure_cost`.
        image_size: see `measure_cost`.
        device: where the model is.

    Returns:
        flops and forward_ms.
    """
    image_BCHW = torch.rand(1, 3, image_size, image_size, device=device)
    with _evaluating(model):
        parts = model.cost_parts(image_BCHW)
        joins = [p for name, p in parts.items() if name != "encoder" and _EXPERT not in name]
        measured = [_part(part, device) for part in joins if part.step is not None]
    return {cost: sum(part[cost] for part in measured) for cost in ("flops", "forward_ms")}


def _part(part: CostPart, device: torch.device) -> Cost:
    trainable, total = count_parameters(nn.ModuleList(part.modules))
    counts = {"trainable_parameters": trainable, "total_parameters": total}
    if part.step is None:
        return counts
    measured = _measured(part.modules, part.step, device, _PART_RUNS, 2)
    return {**counts, "flops": count_flops(part.step), **measured}


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
