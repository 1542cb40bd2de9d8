"""Annotation files: read once, every entry held to its kinds; `tove.data.joins` joins them by id.

What would change the data without a word is an error; what can be mended in one way only is
mended, and counted in a warning. `Texts` keeps many texts in two blocks of memory, which forked
workers share: Python's own strings are copied, page by page, by being counted.
"""

import gc
import io
import json
import logging
import os
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
    "open_text",
    "read_json",
    "read_rows",
    "refuse",
    "some",
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
    except FileNotFoundError as error:
        raise ConfigError(f"There is no {path!r}, which should be {what}.") from error
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
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no annotation file {path!r}; put it there, or correct data_root or its name."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The annotation file {path!r} cannot be read ({error}); it must be text in UTF-8."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return f"{type(error).__name__}: {error}"


def warn(path: str, count: int, what: str, examples: Sequence[object] = ()) -> None:
    """Say how many entries of a file something happens to, where it does to any."""
    if count:
        which = f", {some(examples)}" if examples else ""
        print_log(f"{path}: {count} {what}{which}.", logger="current", level=logging.WARNING)


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


def some(examples: Sequence[object]) -> str:
    """Write the first of several examples."""
    listed = ", ".join(ascii(example) for example in examples[:_SHOWN])
    return f"first {listed}" if len(examples) > _SHOWN else listed
