"""Sums over the processes of a run and their gradients; what one process does for all of them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import broadcast_object_list, is_main_process
from torch import Tensor

from tove.errors import ConfigError

__all__ = ["global_mean", "global_sum", "mean_over_ranks", "num_ranks", "on_main", "sum_over_ranks"]


def num_ranks() -> int:
    """Return the number of processes; 1 outside of a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _summed(x: Tensor) -> Tensor:
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def global_sum(x: Tensor) -> Tensor:
    """Sum over ranks. Its gradient is scaled by their number, which DDP's averaging undoes."""
    if num_ranks() == 1:
        return x
    return _summed(x) + (x - x.detach()) * num_ranks()


def mean_over_ranks(x: Tensor) -> Tensor:
    """Average over ranks, without a gradient."""
    return x if num_ranks() == 1 else _summed(x) / num_ranks()


def global_mean(total: Tensor, number: Tensor, ranks: bool = True) -> Tensor:
    """Divide a rank's sum by how much it counts, averaged over ranks; 0 where nothing counts.

    DDP's mean of the ranks' gradients is then that of one process with the whole batch, however
    unlike the ranks' parts are: fewer than one of a rank is no mistake.

    Args:
        total: this rank's sum.
        number: of what this rank has summed.
        ranks: whether other ranks take part.
    """
    number = mean_over_ranks(number) if ranks else number
    return total / torch.where(number > 0, number, torch.ones_like(number))


class _SumOverRanks(torch.autograd.Function):
    """A sum that every rank gets; its gradient is the sum of the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401
        return _summed(grad.contiguous())


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum over ranks, for what goes on to differ between them: gradients are summed as well."""
    total: Tensor = _SumOverRanks.apply(x)
    return total


def on_main(work: Callable[[], object]) -> None:
    """Do something on the main process alone, while the others wait.

    Raises:
        ConfigError: on every process, what it refused.
    """
    refusal: list[ConfigError | None] = [None]
    if is_main_process():
        try:
            work()
        except ConfigError as error:
            refusal = [error]
    broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise refusal[0]
