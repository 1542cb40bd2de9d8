"""Which of many image files are there, found by listing their folders.

A listing tells the names and kinds of 100,000 files in the time in which the file system is asked
about a few thousand by name, over a network less.
"""

import os
from collections.abc import Iterable

__all__ = ["real_paths"]


def real_paths(paths: Iterable[str]) -> dict[str, str]:
    """Return the real path of each file that is there; links lead to one and the same.

    Args:
        paths: of files. What is no regular file, such as a folder or a pipe, is not there.
    """
    wanted: dict[str, list[str]] = {}
    for path in paths:
        wanted.setdefault(path.rpartition(os.sep)[0], []).append(path)
    found: dict[str, str] = {}
    for folder, inside in wanted.items():
        regular, real = _regular_files(folder), os.path.realpath(folder)
        for path in inside:
            name = path.rpartition(os.sep)[2]
            if name in regular:
                found[path] = f"{real}{os.sep}{name}"
            elif os.path.isfile(path):  # a link, or a name in other capitals where that is the same
                found[path] = os.path.realpath(path)
    return found


def _regular_files(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError:
        return set()
