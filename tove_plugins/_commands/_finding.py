"""Discovery as the commands need it: nothing but the command itself writes to stdout."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tove_plugins._catalog import Catalog, ExpertEntry, Status
from tove_plugins._discovery import discover

__all__ = ["expert_status", "find_experts"]

STDOUT, STDERR = 1, 2


def find_experts() -> Catalog:
    """Discover, with whatever plugins write past `sys.stdout` sent to stderr."""
    with _stdout_is_stderr():
        return discover()


@contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Point the descriptor elsewhere: C extensions and child processes know no `sys.stdout`."""
    sys.stdout.flush()
    kept = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        yield
    finally:
        os.dup2(kept, STDOUT)
        os.close(kept)


def expert_status(catalog: Catalog, entry: ExpertEntry) -> Status:
    """Say whether the expert can be built; its plugin may be unwell for another one's sake."""
    return "conflict" if entry.spec.name in catalog.contested else "active"
