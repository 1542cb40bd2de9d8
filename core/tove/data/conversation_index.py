"""Where each record of LLaVA's JSON stands, so that any of them is read alone.

    file:   [{"id": .., "image"?: "a.jpg" | ["a.jpg", ..],
              "conversations": [{"from": "human" | "gpt", "value": ".."}, ..]}, ..]
    index:  begin_R, size_R (bytes), words_R, first_R and image_M (numbers of the images of record r
            are image[first[r] : first[r + 1]]), names of the I distinct images

One pass in pieces builds it, in the memory of a piece and of the names; it is kept beside the file
with the file's digest. Readers map it into memory, which the workers of a machine share.

Shapes: R records, M images named by records, I distinct images.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import numpy as safetensors

from tove.atomic_io import atomic_writer
from tove.errors import ConfigError

__all__ = ["IMAGE", "ConversationIndex", "image_names"]

IMAGE = "<image>"
ROLES = ("human", "gpt")
_PIECE = 8 << 20
_LONGEST = 64 << 20  # bytes of one record: more means that the file is damaged
_VERSION = "1"
_SPACE = re.compile(r"[ \t\n\r]*")
_EXAMPLE = (
    '[{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": '
    '"<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}]'
)


class ConversationIndex:
    """The index of a file, from beside it where it is current, else built.

    Args:
        path: LLaVA's JSON.
        folder: where the index is kept; None is beside the file.

    Attributes:
        begin: first byte of each record, [R].
        size: bytes of each record, [R].
        words: words of all turns of each record, [R]; LLaVA's measure of length.
        first: where each record's images begin in `image`, [R + 1].
        image: numbers of distinct images, [M].
        digest: sha256 of the file.

    Raises:
        ConfigError: the file is not there, is damaged or holds something else.
        CheckpointError: the index cannot be written.
    """

    def __init__(self, path: str | Path, folder: str | Path | None = None) -> None:
        self._arguments = path, folder
        source = Path(path)
        file = Path(folder or source.parent) / f".{source.name}.index"
        try:
            stamp = _stamp(source)
            if not _is_current(file, source, stamp):
                _write(file, source, stamp)
        except OSError as error:
            raise ConfigError(
                f"The conversations {str(path)!r} cannot be read ({error}); set ann_file to "
                "LLaVA's JSON inside data_root."
            ) from error
        columns, notes = _mapped(file)
        self.digest = notes["sha256"]
        self.begin, self.size, self.words = (columns[n] for n in ("begin", "size", "words"))
        self.first, self.image = columns["first"], columns["image"]
        self._name_begin, self._names = columns["name_begin"], columns["names"]

    def __reduce__(self) -> tuple[Any, ...]:
        return ConversationIndex, self._arguments  # a spawned worker maps the same file

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def num_images(self) -> int:
        """Number I of distinct images."""
        return len(self._name_begin) - 1

    def images_of(self, record: int) -> list[int]:
        """Return the numbers of a record's images, in their order in the conversation."""
        return self.image[self.first[record] : self.first[record + 1]].tolist()

    def image_name(self, number: int) -> str:
        """Return the name of a distinct image, as the file has it."""
        begin, end = self._name_begin[number : number + 2].tolist()
        return self._names[begin:end].tobytes().decode()

    def modality_lengths(self) -> np.ndarray:
        """Return each record's number of words, at least 1, negative where it has no image: [R]."""
        words = np.maximum(self.words.astype(np.int64), 1)
        return np.where(np.diff(self.first.astype(np.int64)) > 0, words, -words)


def image_names(record: dict[str, Any]) -> list[str]:
    """Return the images that a record names: none, one or several."""
    found = record.get("image")
    names = [] if found is None else found if isinstance(found, list) else [found]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"image is {found!r}")
    return names


def _stamp(source: Path) -> str:
    about = source.stat()
    return f"{about.st_size} {about.st_mtime_ns}"


def _is_current(file: Path, source: Path, stamp: str) -> bool:
    """Tell whether an index is of this file: same time stamp, or else same digest."""
    if not file.is_file():
        return False
    try:
        _, notes = _mapped(file)
    except (ValueError, KeyError):
        return False  # damaged: it is made again
    if notes.get("version") != _VERSION:
        return False
    if notes["stamp"] == stamp:
        return True
    if notes["stamp"].split()[0] != stamp.split()[0]:
        return False
    with open(source, "rb") as stream:  # touched or copied: only the digest can tell
        return hashlib.file_digest(stream, "sha256").hexdigest() == notes["sha256"]


def _mapped(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map a safetensors file of numpy arrays into memory, with its metadata."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    notes = header.pop("__metadata__")
    kinds = {"U8": np.uint8, "U32": np.uint32, "U64": np.uint64}
    data = np.memmap(file, np.uint8, "r")
    columns = {}
    for name, about in header.items():
        begin, end = (8 + length + offset for offset in about["data_offsets"])
        columns[name] = np.asarray(data[begin:end]).view(kinds[about["dtype"]])
    return columns, notes


def _write(file: Path, source: Path, stamp: str) -> None:
    """Read a file once, from end to end, and write its index."""
    begins, sizes, words, images = array("Q"), array("Q"), array("Q"), array("Q")
    firsts, numbers = array("Q", [0]), dict[str, int]()
    digest = hashlib.sha256()
    wrong: list[str] = []
    for begin, size, record in _records(source, digest):
        try:
            names, count, markers = _measure(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"Record {len(begins)} of {str(source)!r} (byte {begin}) is no conversation "
                f"({type(error).__name__}: {error}); one looks like this: {_EXAMPLE}"
            ) from error
        if names and markers != len(names):
            wrong.append(f"{record.get('id')!r} ({len(names)} images, {markers} {IMAGE})")
        begins.append(begin)
        sizes.append(size)
        words.append(count)
        images.extend(numbers.setdefault(name, len(numbers)) for name in names)
        firsts.append(len(images))
    _check(source, len(begins), wrong)
    names_bytes = [name.encode() for name in numbers]
    columns: dict[str, np.ndarray] = {
        "begin": np.array(begins, np.uint64),
        "size": np.array(sizes, np.uint32),
        "words": np.array(words, np.uint32),
        "first": np.array(firsts, np.uint64),
        "image": np.array(images, np.uint32),
        "name_begin": np.cumsum([0, *map(len, names_bytes)], dtype=np.uint64),
        "names": np.frombuffer(b"".join(names_bytes), np.uint8),
    }
    notes = {"sha256": digest.hexdigest(), "stamp": stamp, "version": _VERSION}
    with atomic_writer(file) as stream:
        stream.write(safetensors.save(columns, notes))


def _check(source: Path, count: int, wrong: list[str]) -> None:
    if not count:
        raise ConfigError(f"{str(source)!r} holds no conversation; one looks like: {_EXAMPLE}")
    if wrong:
        raise ConfigError(
            f"{len(wrong)} of the {count} conversations of {str(source)!r} do not have one {IMAGE} "
            f"for each of their images, first {', '.join(wrong[:3])}; put {IMAGE} where each image "
            "belongs, or leave them out."
        )


def _measure(record: dict[str, Any]) -> tuple[list[str], int, int]:
    """Return the names of a record's images, its number of words and of image markers."""
    turns = record["conversations"]
    if not turns or not any(turn["from"] == "gpt" for turn in turns):
        raise ValueError("conversations has no turn of gpt")
    unknown = [turn["from"] for turn in turns if turn["from"] not in ROLES]
    if unknown:
        raise ValueError(f"a turn is from {unknown[0]!r}, not from 'human' or 'gpt'")
    texts = [turn["value"] for turn in turns]
    return (
        image_names(record),
        sum(len(text.split()) for text in texts),
        sum(text.count(IMAGE) for text in texts),
    )


def _records(source: Path, digest: Any) -> Iterator[tuple[int, int, Any]]:  # noqa: ANN401
    """Yield (first byte, bytes, record) of each element of a file's JSON list.

    The text is read as Latin-1, in which a character is a byte: JSON's own characters are ASCII,
    and what follows them in UTF-8 only occurs inside strings. A record that is not all ASCII is
    read again as what it is.
    """
    decoder = json.JSONDecoder()
    with open(source, "rb") as stream:
        text, place, base, opened = "", 0, 0, False
        while True:
            place = _SPACE.match(text, place).end()  # type: ignore[union-attr] # matches nothing too
            if not opened and text.startswith("\xef\xbb\xbf"):  # a byte order mark
                text, base = text[3:], 3
                continue
            separator = text[place : place + 1]
            if opened and separator == "]":
                _to_the_end(stream, digest)
                return
            if separator == ("," if opened else "["):
                place, opened = place + 1, True
                continue
            try:
                record, end = decoder.raw_decode(text, place)
                if not opened:
                    raise _damaged(source, base + place, "it is no list")
                if not isinstance(record, dict):
                    raise _damaged(source, base + place, "it is no list of objects")
                piece = text[place:end]
                if not piece.isascii():
                    record = json.loads(piece.encode("latin-1"))
                yield base + place, end - place, record
                place = end
            except ValueError as error:
                if isinstance(error, ConfigError):
                    raise
                more = stream.read(_PIECE) if len(text) - place < _LONGEST else b""
                if not more:
                    raise _damaged(source, base + place, str(error)) from error
                digest.update(more)
                text, base, place = text[place:] + more.decode("latin-1"), base + place, 0


def _to_the_end(stream: Any, digest: Any) -> None:  # noqa: ANN401
    while more := stream.read(_PIECE):
        digest.update(more)


def _damaged(source: Path, byte: int, cause: str) -> ConfigError:
    return ConfigError(
        f"{str(source)!r} is damaged or not LLaVA's JSON, at byte {byte}: {cause}. It must be a "
        f"list such as {_EXAMPLE}; fetch or write it again."
    )
