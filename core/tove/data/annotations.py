"""Annotation files: read once, every entry held to its kinds, joins by id checked in one place.

What would change the data without a word is an error; what can be mended in one way only is
mended, and counted in a warning. `Texts` keeps many texts in two blocks of memory, which forked
workers share: Python's own strings are copied, page by page, by being counted.
"""

import gc
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import escape, glob
from itertools import islice
from typing import Any, TextIO
from zipfile import BadZipFile, ZipFile

import numpy as np
from mmengine.logging import print_log

from tove.config.validation import fits
from tove.errors import ConfigError

__all__ = [
    "Texts",
    "is_text",
    "join_by_id",
    "open_text",
    "pair_by_id",
    "read_json",
    "read_rows",
    "refuse",
    "text_of",
    "warn",
]

_SHOWN = 3
_AT_ONCE = 1 << 16


class Texts(Sequence[str]):
    """A sequence of texts: their bytes in one block, and where each ends."""

    def __init__(self, texts: Iterable[str]) -> None:
        block, lengths = bytearray(), [0]
        waiting = iter(texts)
        while some := [  # a file's name need not be UTF-8
            text.encode("utf-8", "surrogateescape") for text in islice(waiting, _AT_ONCE)
        ]:
            block += b"".join(some)
            lengths += map(len, some)
        self._block = np.frombuffer(bytes(block), dtype=np.uint8)
        self._ends = np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as Sequence says it
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        text = self._block[self._ends[index] : self._ends[index + 1]]
        return text.tobytes().decode("utf-8", "surrogateescape")


def is_text(value: object) -> bool:
    """Tell whether a value is a text of whole letters: JSON can hold NUL and half ones."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return "\0" not in value
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def text_of(row: dict[str, Any], key: str) -> str:
    """Return a text of an entry.

    Raises:
        KeyError: there is none.
        TypeError: it is something else.
        ValueError: it is blank.
    """
    value = row[key]
    if not is_text(value):
        raise TypeError(f"{key} is {ascii(value)[:80]}, but must be a text in Unicode")
    if not value.strip(" .\t\n\r"):
        raise ValueError(f"{key} is blank")
    return str(value)


def open_text(path: str) -> TextIO:
    """Open a file, or what bears its name in an archive beside it: many are downloaded in one.

    Raises:
        OSError: there is neither.
    """
    folder, name = os.path.split(path)
    archives = [] if os.path.exists(path) else sorted(glob(f"{escape(folder or '.')}/*.zip"))
    for archive in archives:
        with ZipFile(archive) as opened:
            member = next((m for m in opened.namelist() if os.path.basename(m) == name), None)
            if member is not None:
                return io.StringIO(opened.read(member).decode("utf-8-sig"))
    return open(path, encoding="utf-8-sig")


def read_json(
    path: str,
    what: str,
    slim: Callable[[dict[str, Any]], Any] | None = None,
    hint: Any = Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Read a JSON file.

    Args:
        path: of the file.
        what: it should be, with its article, for the message.
        slim: what becomes of every object, the inner ones first. COCO's 600,000 captions take half
            the memory where an object shrinks before the next one is read.
        hint: an annotation that the content is held to, see `tove.config.validation`.

    Raises:
        ConfigError: it cannot be read, is no JSON, or holds something else.
    """
    collecting = gc.isenabled()
    gc.disable()  # it would look through all that is read again and again, and none is garbage
    try:
        with open_text(path) as file:
            content = json.load(file, object_hook=slim)
    except (OSError, ValueError, RecursionError, BadZipFile) as error:
        raise ConfigError(f"{path!r} is not {what} ({_reason(error)}).") from error
    finally:
        if collecting:
            gc.enable()
    if not fits(content, hint):
        raise ConfigError(f"{path!r} is not {what} (it holds {ascii(content)[:80]}).")
    return content


def read_rows(path: str, what: str, make: Callable[[dict[str, Any], int], Any]) -> list[Any]:
    """Read a file of one JSON object a line, blank ones left out.

    Args:
        path: of the file.
        what: a line is, and needs, for the message.
        make: what becomes of a line's object and number, from 1; a ValueError, KeyError, TypeError
            or AttributeError of it is told with the line.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, or a line is wrong.
    """
    rows = []
    for number, line in _lines(path):
        try:
            rows.append(make(json.loads(line), number))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"Line {number} of {path!r} is not {what} ({_reason(error)})."
            ) from error
    return rows


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with open_text(path) as file:
            yield from ((n, line) for n, line in enumerate(file, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The annotation file {path!r} cannot be read ({error}); it must be text in UTF-8."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{type(error).__name__}: {error}"


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
            f"with another file name, {_some(clashing)}; give every image an id of its own. Files "
            "that were put together need their ids, and those of their annotations, renumbered."
        )
    found = [places.get(owner, -1) for owner in owners]
    lost = [owner for owner, place in zip(owners, found, strict=True) if place < 0]
    if owners and len(lost) == len(owners):
        raise ConfigError(
            f"None of the {len(owners)} annotations in {path!r} has the id of one of its "
            f"{len(names)} images, {_some(lost)}; the two lists are not of one data set."
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
                f"than once, {_some(again)}; which annotation is whose cannot be told. Take the "
                "files that were downloaded."
            )
    places = {owner: place for place, owner in enumerate(owners)}
    lost = [identity for identity in ids if identity not in places]
    if lost:
        raise ConfigError(
            f"{len(lost)} of the {len(ids)} {what} have no annotation in {path!r}, {_some(lost)}; "
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


def warn(path: str, count: int, what: str, examples: Sequence[object] = ()) -> None:
    """Say how many entries of a file something happens to, where it does to any."""
    if count:
        some = f", {_some(examples)}" if examples else ""
        print_log(f"{path}: {count} {what}{some}.", logger="current", level=logging.WARNING)


def refuse(path: str, what: str, wrong: Sequence[int], entries: Sequence[Any], need: str) -> None:
    """Refuse a list with entries that are not what they must be.

    Args:
        path: of the file.
        what: it should be.
        wrong: places of the entries that are not.
        entries: all.
        need: what an entry needs, a sentence's end.

    Raises:
        ConfigError: there are any, with their number and the first.
    """
    if wrong:
        raise ConfigError(
            f"{path!r} is not a {what}: {len(wrong)} of its {len(entries)} {need}; the first "
            f"is number {wrong[0] + 1}, {ascii(entries[wrong[0]])[:200]}."
        )


def _some(examples: Sequence[object]) -> str:
    listed = ", ".join(ascii(example) for example in examples[:_SHOWN])
    return f"first {listed}" if len(examples) > _SHOWN else listed
