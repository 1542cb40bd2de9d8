"""Loading of models without transformers' bars on a run's console."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging

__all__ = ["without_bars"]


@contextmanager
def without_bars() -> Iterator[None]:
    """Let transformers load without bars: version 5 draws one of "Loading weights" for each model.

    Those of downloads, which take minutes, stay, and so do warnings and errors.
    """
    shown, of_downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()  # and those of downloads along with it
    if of_downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        (enable_progress_bars if of_downloads else disable_progress_bars)()
