"""What a user can mend: a message that is one full sentence, shown without a traceback."""

import difflib
from collections.abc import Iterable

__all__ = ["CheckpointError", "ConfigError", "Preempted", "TrainingError", "close_matches"]


class ConfigError(ValueError):
    """The config, the environment or the work folder asks for something that cannot be done."""


class CheckpointError(ConfigError):
    """A checkpoint cannot be written, read, or does not belong to this config."""


class TrainingError(ConfigError):
    """A training has gone wrong in a way that other settings mend."""


class Preempted(Exception):
    """A signal has ended a training, which is saved and can be resumed.

    Args:
        message: one sentence.
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal


def close_matches(name: str, known: Iterable[str]) -> str:
    """Say which known names are near `name`, or list them, as the tail of a message."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(repr(match) for match in near)}?"
    return f"Known names: {', '.join(known) or 'none'}."
