"""What the readers of benchmarks share: a question, and files whose every entry is held to it."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tove.data.annotations import read_json
from tove.errors import ConfigError, close_matches

__all__ = ["Files", "Question", "listed", "make_each", "pick"]

_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError)


@dataclass(frozen=True, slots=True)
class Question:
    """A question as a benchmark has it.

    Attributes:
        image: path within the folder of the images.
        id: the benchmark's own, which a submission names.
        text: the question.
        target: the right answer, or the one most people gave; "" where nobody outside knows.
        references: what each of several people answered.
        candidates: the answers to choose from; None where any text may be said.
        groups: the parts of the benchmark that it counts in, each "KIND/NAME".
        about: what the scorer of this benchmark alone reads.
    """

    image: str
    id: int | str
    text: str
    target: str = ""
    references: Sequence[str] = ()
    candidates: Sequence[str] | None = None
    groups: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one split.

    Args:
        root: folder that their names begin in.
        split: its name.
        names: of the files, by what each is.
    """

    root: str
    split: str
    names: Mapping[str, str]

    def __getitem__(self, what: str) -> str:
        """Return a file's path."""
        return os.path.join(self.root, self.names[what])

    def content(self, what: str) -> dict[str, Any]:
        """Read a JSON file and return the object it holds.

        Raises:
            ConfigError: it cannot be read, or holds something else.
        """
        content = read_json(self[what], f"the {what} file of this benchmark")
        if not isinstance(content, dict):
            raise ConfigError(
                f"{self[what]!r} is not the {what} file of this benchmark: it holds no object; put "
                "the file there that was downloaded, or name it in `files`."
            )
        return content


def listed(path: str, content: object, key: str | None = None) -> list[Any]:
    """Return the list that a file holds.

    Args:
        path: of the file.
        content: of it.
        key: where the list is; None is the whole.

    Raises:
        ConfigError: there is none.
    """
    if key is not None:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, list):
        where = "is no list" if key is None else f"has no list '{key}'"
        raise ConfigError(
            f"{path!r} {where}; put the file there that was downloaded, or name another."
        )
    return content


def make_each(
    path: str, entries: Iterable[Any], what: str, make: Callable[[Any], Any]
) -> list[Any]:
    """Make something of every entry of a file.

    Args:
        path: of the file.
        entries: of it.
        what: an entry is, and needs, for the message.
        make: of an entry.

    Raises:
        ConfigError: an entry is something else; the first is told.
    """
    made = []
    for number, entry in enumerate(entries, start=1):
        try:
            made.append(make(entry))
        except _WRONG as error:
            raise ConfigError(
                f"Entry {number} of {path!r} is not {what} ({type(error).__name__}: {error})."
            ) from error
    return made


def pick(known: Mapping[str, Any], name: str, what: str) -> Any:  # noqa: ANN401 - of any table
    """Return an entry of a table by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in known:
        raise ConfigError(f"There is no {what} '{name}'. {close_matches(name, known)}")
    return known[name]
