"""Joins by id, checked in one place: ids that occur twice, of two kinds, or of nothing.

What would change the data without a word is an error; what is left over is counted in a warning.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tove.data.annotations import some, warn
from tove.errors import ConfigError

__all__ = ["join_by_id", "pair_by_id"]


def join_by_id(path: str, names: Sequence[tuple[Any, str]], owners: Sequence[Any]) -> list[int]:
    """Find the image of each annotation by its id.

    An image named twice under one id, or under two, is one image: its annotations come together.

    Args:
        path: of the file, for messages.
        names: id and file name of each image.
        owners: the image id of each annotation.

    Returns:
        For each annotation the place of its image in `names`, the first one of that file name; -1
        where there is no such image.

    Raises:
        ConfigError: ids are of two kinds, an id stands for two files, or no annotation has its
            image.
    """
    _check_kinds(path, "images", [identity for identity, _ in names], owners)
    places: dict[Any, int] = {}
    by_name: dict[str, int] = {}
    clashing = []
    again = []
    for number, (identity, name) in enumerate(names):
        place = by_name.setdefault(os.path.normpath(name) if "/" in name else name, number)
        if place != number:
            again.append(name)
        if places.setdefault(identity, place) != place:
            clashing.append(identity)
    if clashing:
        raise ConfigError(
            f"{len(clashing)} of the {len(names)} images in {path!r} have the id of another image "
            f"with another file name, {some(clashing)}; give every image an id of its own. Files "
            "that were put together need their ids, and those of their annotations, renumbered."
        )
    found = [places.get(owner, -1) for owner in owners]
    lost = [owner for owner, place in zip(owners, found, strict=True) if place < 0]
    if owners and len(lost) == len(owners):
        raise ConfigError(
            f"None of the {len(owners)} annotations in {path!r} has the id of one of its "
            f"{len(names)} images, {some(lost)}; the two lists are not of one data set."
        )
    warn(path, len(lost), "annotations belong to no image and are left out", lost)
    warn(path, len(again), "images are listed again and taken as one with the first", again)
    return found


def pair_by_id(path: str, what: str, ids: Sequence[Any], owners: Sequence[Any]) -> dict[Any, int]:
    """Find the one annotation of each entry by its id, where an entry cannot be without.

    Args:
        path: of the annotations' file, for messages.
        what: the entries are, such as "questions".
        ids: of the entries.
        owners: the entry's id of each annotation.

    Returns:
        By the id of an entry the place of its annotation in `owners`.

    Raises:
        ConfigError: ids are of two kinds, one occurs twice on a side, or an entry has no
            annotation.
    """
    _check_kinds(path, what, ids, owners)
    for side, found in ((what, ids), ("annotations", owners)):
        again = [identity for identity, count in Counter(found).items() if count > 1]
        if again:
            raise ConfigError(
                f"{len(again)} ids of the {len(found)} {side} that {path!r} is about occur more "
                f"than once, {some(again)}; which annotation is whose cannot be told. Take the "
                "files that were downloaded."
            )
    places = {owner: place for place, owner in enumerate(owners)}
    lost = [identity for identity in ids if identity not in places]
    if lost:
        raise ConfigError(
            f"{len(lost)} of the {len(ids)} {what} have no annotation in {path!r}, {some(lost)}; "
            "take both files of one release."
        )
    warn(path, len(owners) - len(ids), f"annotations belong to none of the {what}")
    return places


def _check_kinds(path: str, what: str, ids: Sequence[Any], owners: Sequence[Any]) -> None:
    """Refuse ids of two kinds: 1 and "1" never meet."""
    if len({type(identity) for identity in (*ids, *owners)}) > 1:
        strings = sum(isinstance(i, str) for i in ids), sum(isinstance(i, str) for i in owners)
        raise ConfigError(
            f"The ids in {path!r} are partly texts and partly numbers ({strings[0]} of "
            f"{len(ids)} {what} and {strings[1]} of {len(owners)} annotations have a text), so "
            f"annotations would miss their {what}; make them all numbers or all texts."
        )
