"""What an expert's code may change for the whole process, put back after it ran.

A stranger's `torch.set_grad_enabled(False)`, `torch.set_default_dtype(...)` or
`torch.manual_seed(0)` at import or in a factory would break or bias a run far away from it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["kept_global_state"]


@dataclass(frozen=True, slots=True)
class _Generator:
    """A process's generator of random numbers: how its state is read, put back, and used once."""

    get: Callable[[], Any]
    put: Callable[[Any], object]
    draw: Callable[[], object]


@contextmanager
def kept_global_state() -> Iterator[None]:
    """Put grad mode, default dtype and the CPU's random states back after the body.

    A body that drew random numbers leaves each generator one number on, whatever it drew: two
    experts with random weights are to differ. torch is not imported for this; where the body
    imports it first, its modes are put to torch's own defaults.
    """
    modes = _torch_modes()
    saved = [(generator, generator.get()) for generator in _generators()]
    try:
        yield
    finally:
        _put_modes(*modes)
        for generator, state in saved:
            after = generator.draw()
            generator.put(state)
            if generator.draw() == after:  # the body drew none: leave no trace of this either
                generator.put(state)


def _torch_modes() -> tuple[bool, torch.dtype | None]:
    torch = sys.modules.get("torch")
    return (True, None) if torch is None else (torch.is_grad_enabled(), torch.get_default_dtype())


def _put_modes(grad: bool, dtype: torch.dtype | None) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(torch.float32 if dtype is None else dtype)


def _generators() -> Iterator[_Generator]:
    """Yield those of the libraries that are imported; of others there is no state to keep."""
    yield _Generator(random.getstate, random.setstate, random.random)
    if numpy := sys.modules.get("numpy"):
        chance = numpy.random
        yield _Generator(chance.get_state, chance.set_state, chance.random)
    if torch := sys.modules.get("torch"):
        chance = torch.default_generator

        def draw() -> int:
            return int(torch.randint(2**62, (1,), generator=chance, device="cpu").item())

        yield _Generator(torch.get_rng_state, torch.set_rng_state, draw)
