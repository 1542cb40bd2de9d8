"""Whether the files that a run has left are still those that it wrote: their digests, kept apart.

A flipped bit in a weight, a score or a list of images changes results without a word.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tove.backbones.export_folder import CARD
from tove_plugins import sha256_of

__all__ = ["digests_of", "lost_files"]


def digests_of(base: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Return the digest of each file by its path from `base`; of a folder, of all within it."""
    files = {
        file.resolve()
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file() and file.name != CARD
    }
    return {os.path.relpath(file, base.resolve()): sha256_of(file) for file in sorted(files)}


def lost_files(base: Path, digests: Mapping[str, str]) -> list[str]:
    """Say of each file that is no longer what it was whether it is gone or changed.

    Args:
        base: the folder that the paths are from.
        digests: what `digests_of` returned; "" asks only that the file is there.
    """
    lost = []
    for name, digest in digests.items():
        path = base / name
        if not path.is_file():
            lost.append(f"{path} is gone")
        elif digest and sha256_of(path) != digest:
            lost.append(f"{path} has changed")
    return lost
