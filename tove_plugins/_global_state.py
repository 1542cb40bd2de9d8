"""What an expert's code may change for the whole process, put back after it ran.

A stranger's `torch.set_grad_enabled(False)`, `torch.set_num_threads(1)` or `torch.manual_seed(0)`
at import, in a factory or in a forward pass would break or bias a run far away from it.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["kept_global_state", "torch_settings"]

# Of torch, for a body that imports it first; the number of threads is the machine's.
_DEFAULTS = {
    "the grad mode": True,
    "the default dtype": "float32",
    "the use of deterministic algorithms": False,
    "the precision of float32 products": "highest",
    "cudnn.allow_tf32": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": False,
    "cudnn.enabled": True,
}


Access = tuple[Callable[[], Any], Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class _Generator:
    """A process's generator of random numbers: its state, how it is put back, and used once."""

    get: Callable[[], Any]
    put: Callable[[Any], object]
    draw: Callable[[], object]
    same: Callable[[Any, Any], bool]


@contextmanager
def kept_global_state() -> Iterator[None]:
    """Put torch's settings, the CPU's random states and the environment back after the body.

    A body that drew random numbers leaves each generator one number on, whatever it drew: two
    experts with random weights are to differ. torch is not imported for this; where the body
    imports it first, its modes are put to torch's own defaults.
    Variables and filters of warnings that the body adds stay, for that is how a library talks to
    its own parts; what silences all goes, a filter of warnings or `logging.disable`: what a run
    warns of is logged.
    """
    settings = {words: (read(), put) for words, (read, put) in torch_settings().items()}
    states = [(generator, generator.get()) for generator in _generators()]
    variables, filters = _variables().copy(), warnings.filters[:]
    silenced = _silenced()
    try:
        yield
    finally:
        _put_settings(settings)
        for generator, state in states:
            if not generator.same(generator.get(), state):
                generator.put(state)
                generator.draw()
        if _variables() != variables:
            environ: Any = os.environ
            decoded = {environ.decodekey(k): environ.decodevalue(v) for k, v in variables.items()}
            os.environ.update(decoded)
        if _silenced() != silenced:
            sys.modules["logging"].disable(silenced)
        if warnings.filters != filters:
            _drop_blanket_filters(filters)


def _silenced() -> int:
    """Return up to which level all logging is off; 0 is none."""
    logging: Any = sys.modules.get("logging")
    return int(logging.root.manager.disable) if logging else 0


def _variables() -> dict[Any, Any]:
    """Return the environment as it is held: to decode it costs more than all else here."""
    found: dict[Any, Any] = vars(os.environ)["_data"]
    return found


def torch_settings() -> dict[str, Access]:
    """Return how each of torch's settings is read and put back; none before torch is imported."""
    if (torch := sys.modules.get("torch")) is None or not hasattr(torch, "set_default_device"):
        return {}
    return _settings_of(torch)


@cache
def _settings_of(torch: Any) -> dict[str, Access]:  # noqa: ANN401 - the module
    cudnn = torch.backends.cudnn

    def of_cudnn(name: str) -> Access:
        return lambda: getattr(cudnn, name), lambda value: setattr(cudnn, name, value)

    return {
        "the grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
        "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        # A tensor has it at a tenth of what `get_default_device` takes.
        "the default device": (lambda: torch.empty(0).device, torch.set_default_device),
        "the number of threads": (torch.get_num_threads, torch.set_num_threads),
        "the use of deterministic algorithms": (
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
        "the precision of float32 products": (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        **{
            f"cudnn.{name}": of_cudnn(name)
            for name in ("allow_tf32", "benchmark", "deterministic", "enabled")
        },
    }


def _put_settings(before: Mapping[str, tuple[Any, Callable[[Any], Any]]]) -> None:
    for words, (read, put) in torch_settings().items():
        value = before[words][0] if before else _DEFAULTS.get(words)
        if value == "float32":
            value = sys.modules["torch"].float32
        if value is not None and read() != value:
            put(value)


def _drop_blanket_filters(before: Sequence[Any]) -> None:
    """Remove the filters that are new and hold for every warning."""
    kept = [f for f in warnings.filters if f in before or f[1:] != (None, Warning, None, 0)]
    if kept != warnings.filters:
        # In place, and through the module's own call, for what it has cached.
        warnings.filters[:] = kept  # type: ignore[index]
        warnings.simplefilter("default", append=True)
        warnings.filters.pop()  # type: ignore[attr-defined]


@cache
def _own_generator() -> _Generator:
    return _Generator(random.getstate, random.setstate, random.random, _same_twister)


@cache
def _generator_of_numpy(chance: Any) -> _Generator:  # noqa: ANN401 - numpy.random
    def same(one: Any, other: Any) -> bool:  # noqa: ANN401 - numpy's tuple, an array within
        def plain(state: Any) -> Any:  # noqa: ANN401
            return None, (None, *state[1][1:4].tolist(), state[2]), state[3:]

        return _same_twister(plain(one), plain(other))

    return _Generator(chance.get_state, chance.set_state, chance.random, same)


@cache
def _generator_of_torch(torch: Any) -> _Generator:  # noqa: ANN401 - the module
    chance = torch.default_generator

    def draw() -> int:
        return int(torch.randint(2**62, (1,), generator=chance, device="cpu").item())

    return _Generator(torch.get_rng_state, torch.set_rng_state, draw, torch.equal)


def _same_twister(one: Any, other: Any) -> bool:  # noqa: ANN401
    """Compare two states of a Mersenne Twister as python gives them: (version, words, rest).

    The last of the words is the place among them, which moves at each draw; at its end all words
    are made anew, as by a seed. Of 624 words three tell that; the first is the same for all seeds.
    """
    return bool(one[1][1:4] == other[1][1:4] and one[1][-1] == other[1][-1] and one[2] == other[2])


def _generators() -> Iterator[_Generator]:
    """Yield those of the libraries that are imported; of others there is no state to keep."""
    yield _own_generator()
    if numpy := sys.modules.get("numpy"):
        yield _generator_of_numpy(numpy.random)
    if torch := sys.modules.get("torch"):
        yield _generator_of_torch(torch)
