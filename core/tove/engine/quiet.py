"""Keeps to itself what mmengine says of things that are only tried."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import MMLogger

__all__ = ["errors_only"]


@contextmanager
def errors_only() -> Iterator[None]:
    """Let nothing below an error through while it is on."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
