"""Fully sharded data parallelism (FSDP2) by torch's own `fully_shard`.

    model_wrapper_cfg = dict(type="FullyShard", min_parameters=1_000_000)

Each repeated layer of the language model, and of an encoder that trains, that has that many
parameters is gathered by itself, when it runs; the rest of the model with the first call.
A checkpoint to resume from is a file for each process, which holds its own parts; nothing is
gathered. Put together they are the whole one, see `tove.engine.checkpoint`.
The model that a training leaves holds whole tensors, by the names that they have without sharding:
it loads in one process. It is gathered tensor by tensor, into the main process's memory: no device
ever holds more than the largest of them.

A scalar cannot be sharded: it is kept whole, and its gradient averaged.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import is_main_process
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = [
    "gathered",
    "is_sharded",
    "joined",
    "load_whole",
    "own_parts",
    "placed",
    "scattered_like",
    "shard",
]

_PART, _SHAPE = "part of a sharded tensor", "shape"

SHARD = "FullyShard"
"""The `type` of `model_wrapper_cfg` that asks for it."""


def shard(model: nn.Module, min_parameters: int = 1_000_000) -> nn.Module:
    """Shard a model's parameters over all processes, in place.

    Args:
        model: on its device.
        min_parameters: a repeated layer with fewer is gathered with the rest of the model.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(get_device(), (dist.get_world_size(),))
    for layer in _layers(model, min_parameters):
        fully_shard(layer, mesh=mesh)
    kept = {p for p in model.parameters() if p.ndim == 0} | set(_placed_elsewhere(model))
    fully_shard(model, mesh=mesh, ignored_params=kept)
    for parameter in kept:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_average)
    return model


def _layers(model: nn.Module, min_parameters: int) -> Iterator[nn.Module]:
    # All processes gather a layer together. A frozen encoder runs where there is an image whose
    # tokens are not known yet, and not everywhere; one that trains sees a blank image elsewhere.
    for name in ("encoder", "language"):
        part = getattr(model, name, None)
        if not isinstance(part, nn.Module) or (name == "encoder" and not _trains(part)):
            continue
        for module in part.modules():
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    if sum(p.numel() for p in layer.parameters()) >= min_parameters:
                        yield layer


def _trains(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _placed_elsewhere(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of experts that the config has put on a device of their own."""
    for module in model.modules():
        if getattr(module, "slot", None) is not None and getattr(module, "device", None):
            yield from module.parameters()


def _average(parameter: Tensor) -> None:
    if parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def is_sharded(model: Any) -> bool:  # noqa: ANN401 - a module
    """Tell whether any parameter of a model is spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gathered(value: Any) -> Any:  # noqa: ANN401 - any state dict
    """Return a nested state with every sharded tensor whole, on the CPU of the main process.

    All processes take part; the others are given zeros of its shape, which take no room.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        if is_main_process():
            return whole.cpu()
        return torch.zeros((), dtype=whole.dtype).expand(whole.shape)
    return _mapped(gathered, value)


def own_parts(value: Any) -> Any:  # noqa: ANN401 - any state dict
    """Return a nested state in plain tensors, a sharded one as this process's part and its shape.

    `placed` makes it sharded again, `joined` whole.
    """
    if isinstance(value, DTensor):
        return {_PART: value.to_local().detach().cpu(), _SHAPE: list(value.shape)}
    return _mapped(own_parts, value)


def placed(value: Any, like: DTensor) -> Any:  # noqa: ANN401 - any state dict
    """Return a nested state of `own_parts` with its parts sharded, as `like` is."""
    if not _is_part(value):
        return _mapped(lambda inner: placed(inner, like), value)
    shape = torch.Size(value[_SHAPE])
    strides = torch.empty(shape, device="meta").stride()
    part = value[_PART].to(like.device)
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=shape, stride=strides
    )


def joined(states: Sequence[Any]) -> Any:  # noqa: ANN401 - state dicts
    """Return the whole nested state of what `own_parts` gave in each process, in their order.

    What is not sharded is that of the first.
    """
    first = states[0]
    if _is_part(first):
        return torch.cat([state[_PART] for state in states]).reshape(first[_SHAPE])
    if not isinstance(first, Mapping):
        return first
    return {key: joined([state[key] for state in states if key in state]) for key in first}


def _is_part(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, Mapping) and _PART in value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:  # noqa: ANN401
    """Apply a function to what a nested state holds."""
    if isinstance(value, Mapping):
        return {key: function(inner) for key, inner in value.items()}
    return [function(inner) for inner in value] if isinstance(value, list) else value


def scattered_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return this process's part of a whole tensor that belongs to a parameter."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def load_whole(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a model, sharded or not, by name."""
    own = dict(model.named_parameters())
    parts = {n: scattered_like(t, own[n]) if n in own else t for n, t in state_dict.items()}
    model.load_state_dict(parts, strict=False)
