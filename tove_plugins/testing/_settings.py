"""Settings that hold for the whole process: what they are, which changed, and putting them back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["changed", "kept_settings", "settings"]


Access = tuple[Callable[[], Any], Callable[[Any], Any]]


def _of_cudnn(name: str) -> Access:
    cudnn = torch.backends.cudnn
    return lambda: getattr(cudnn, name), lambda value: setattr(cudnn, name, value)


# What is told of a setting, how it is read and how it is put back.
_SETTINGS: dict[str, Access] = {
    "the grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, torch.set_default_device),
    # It tells seeding from drawing, which a random build does; put back with the generator.
    "the seed of torch's random numbers": (torch.initial_seed, lambda _: None),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the use of deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the precision of float32 products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    **{f"cudnn.{name}": _of_cudnn(name) for name in ("benchmark", "deterministic", "enabled")},
}


def settings() -> dict[str, Any]:
    """Give every setting by the words for it."""
    return {words: read() for words, (read, _) in _SETTINGS.items()}


def changed(before: Mapping[str, Any]) -> str:
    """Tell which settings are no longer as they were, "" if none."""
    now = settings()
    return " and ".join(
        f"{words} from {value} to {now[words]}"
        for words, value in before.items()
        if now[words] != value
    )


@contextmanager
def kept_settings() -> Iterator[None]:
    """Put back what the body changes, torch's random numbers included."""
    before = settings()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for words, (read, put_back) in _SETTINGS.items():
                if read() != before[words]:
                    put_back(before[words])
