"""Fully sharded data parallelism (FSDP2) by torch's own `fully_shard`.

    model_wrapper_cfg = dict(type="FullyShard", min_parameters=1_000_000)

Each repeated layer of the language model, and of an encoder that trains, that has that many
parameters is gathered by itself, when it runs; the rest of the model with the first call.
Checkpoints hold whole tensors, by the names that they have without sharding: what a sharded
training leaves loads in one process. They are gathered tensor by tensor, into the main process's
memory: no device ever holds more than the largest of them.

A scalar cannot be sharded: it is kept whole, and its gradient averaged.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import is_main_process
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["gathered", "is_sharded", "load_whole", "scattered_like", "shard"]

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
    if isinstance(value, Mapping):
        return {key: gathered(inner) for key, inner in value.items()}
    return [gathered(inner) for inner in value] if isinstance(value, list) else value


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
