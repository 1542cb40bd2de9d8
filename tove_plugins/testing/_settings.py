"""Settings that hold for the whole process: what they are, which changed, and putting them back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tove_plugins._global_state import torch_settings

__all__ = ["changed", "kept_settings", "settings"]

# It tells seeding from drawing, which a random build does; put back with the generator.
_SETTINGS = {
    **torch_settings(),
    "the seed of torch's random numbers": (torch.initial_seed, lambda _: None),
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
