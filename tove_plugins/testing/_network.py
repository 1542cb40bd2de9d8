"""Attempts to reach the network, seen and refused while a check runs.

The interpreter tells of them by its audit events, so that no library's way around is missed, and
those that the expert catches are remembered. Code of C and C++ that opens sockets itself is not
seen, nor what a child process does, save for the tools that are known to fetch.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["refused_network"]

FETCHING = re.compile(
    r"(https?|ftp|s3|gs|ssh)://"
    r"|(^|[\s/])(aria2c|aws|curl|gdown|gsutil|huggingface-cli|rsync|scp|ssh|wget)(\s|$)"
    r"|(^|[\s/])git\s+(clone|fetch|pull|lfs|ls-remote)(\s|$)"
    r"|(^|[\s/])pip3?\s+(install|download)(\s|$)"
)
"""A command that fetches; others, compilers and version queries say, run at will."""

_watching: list[str] | None = None
_is_installed = False


@contextmanager
def refused_network() -> Iterator[list[str]]:
    """Refuse every attempt inside, and give the list in which each is told."""
    global _watching
    _install()
    attempts: list[str] = []
    before, _watching = _watching, attempts
    try:
        yield attempts
    finally:
        _watching = before


def _install() -> None:
    """Install the hook once: Python cannot remove one."""
    global _is_installed
    if not _is_installed:
        sys.addaudithook(_hear)
        _is_installed = True


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    attempt = _attempt(event, given)
    if attempt is not None:
        _watching.append(attempt)
        # As a machine without a network says it, so that an expert may fall back on what it has.
        raise OSError(f"The check refuses {attempt}: the small build must need no network.")


def _attempt(event: str, given: tuple[Any, ...]) -> str | None:
    """Say what of the network an event asks for; None if nothing."""
    if event in ("socket.connect", "socket.sendto"):
        # Local sockets have a path for an address.
        return f"a connection to {_place(given[1])}" if isinstance(given[1], tuple) else None
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        return f"the address of {_text(given[0])}" if given[0] else None
    if event in ("subprocess.Popen", "os.system"):
        words = given[1] if event == "subprocess.Popen" else given[0]
        words = words if isinstance(words, list | tuple) else [words]
        command = " ".join(_text(word) for word in words)
        return f"the command '{command[:80]}'" if FETCHING.search(command) else None
    return None


def _place(address: tuple[Any, ...]) -> str:
    return ":".join(_text(part) for part in address[:2])


def _text(part: Any) -> str:  # noqa: ANN401
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)
