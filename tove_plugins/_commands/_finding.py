"""Discovery as the commands need it: nothing but the command itself writes to stdout."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tove_plugins._catalog import Catalog, ExpertEntry, MethodCatalog, MethodEntry
from tove_plugins._discovery import discover, discover_methods
from tove_plugins._errors import NotAvailable

__all__ = ["find_entries", "find_experts", "find_methods"]

STDOUT, STDERR = 1, 2


def find_experts() -> Catalog:
    """Discover, with whatever plugins write past `sys.stdout` sent to stderr."""
    with _stdout_is_stderr():
        return discover()


def find_methods() -> MethodCatalog:
    """Discover methods in the same way."""
    with _stdout_is_stderr():
        return discover_methods()


def find_entries(name: str) -> list[ExpertEntry | MethodEntry]:
    """Return the expert of a name, the method of that name, or both.

    Raises:
        NotAvailable: There is neither.
    """
    experts, methods = find_experts(), find_methods()
    found: list[ExpertEntry | MethodEntry] = []
    failed: list[NotAvailable] = []
    for get in (lambda: experts.get(name), lambda: methods.get(name)):
        try:
            found.append(get())
        except NotAvailable as error:
            failed.append(error)
    if found:
        return found
    if any(name in (entry.spec.name, *methods.contested) for entry in methods.every()):
        raise failed[1]
    listed = ", ".join(methods.entries) or "none"
    told = f"Nor does a package bring such a method; there are: {listed}."
    raise type(failed[0])(" ".join([str(failed[0]), told, *methods.causes(name)]))


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
