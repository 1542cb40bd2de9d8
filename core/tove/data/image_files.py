"""Which of many image files are there, found by listing their folders; which may be read.

A listing tells the names and kinds of 100,000 files in the time in which the file system is asked
about a few thousand by name, over a network less.
"""

import os
from collections.abc import Iterable

from tove.errors import ConfigError

__all__ = ["check_inside", "real_paths"]


def check_inside(paths: Iterable[str], folders: Iterable[str], file: str) -> None:
    """Refuse images that a file of annotations names outside the data set's own folders.

    Names alone are looked at: where a link in these folders leads is their owner's choice.

    Args:
        paths: of the images.
        folders: that they may lie in.
        file: of annotations, for the message.

    Raises:
        ConfigError: some lead out, by `..` or as absolute paths.
    """
    inside = tuple(os.path.join(folder, "") for folder in folders)
    normal = tuple(os.path.normpath(folder) + os.sep for folder in inside)
    outside = [
        path
        for path in paths
        if not (path.startswith(inside) and ".." not in path)
        and not os.path.normpath(path).startswith(normal)
    ]
    if outside:
        raise ConfigError(
            f"{len(outside)} images named in {file!r} lie outside of {normal[0]}, first "
            f"{outside[0]!a}; a file from elsewhere could have others' images read that way. "
            "Mend the names, or set images_anywhere=True in the data set's config if you trust it."
        )


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
