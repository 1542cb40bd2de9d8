"""The operations of a forward pass, by the part of the model whose modules ran them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tove.engine.parts import REST, watched_parts

__all__ = ["parts_flops"]


@contextmanager
def parts_flops(model: nn.Module, counter: FlopCounterMode) -> Iterator[dict[str, int]]:
    """Gather operations by part while it is on; what no part ran is added at the end.

    Args:
        model: whose modules are watched.
        counter: that is on.
    """
    found: dict[str, int] = {}

    def end(part: str, before: int) -> None:
        found[part] = found.get(part, 0) + counter.get_total_flops() - before

    begun = counter.get_total_flops()
    with watched_parts(model, counter.get_total_flops, end):
        yield found
    found[REST] = counter.get_total_flops() - begun - sum(found.values())
