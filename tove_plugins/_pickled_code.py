"""Name what a pickle would run; it is looked through and not read, torch is not imported."""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["pickled_code"]

_PICKLES = 5  # that follow each other in torch's old format; in its new one there is one
_RUNS = frozenset(
    "asyncio code ctypes http importlib multiprocessing nt os pickle posix pty requests runpy "
    "shutil socket subprocess sys urllib webbrowser".split()
)
_BUILTIN = ("builtins", "__builtin__")  # the latter in protocols below 3
_DANGEROUS = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "open"})


def pickled_code(file: Path) -> str | None:
    """Name the function by which a pickle, or torch's archive of one, would reach the system.

    Args:
        file: Of any kind.

    Returns:
        Such as "posix.system"; None where nothing known to be dangerous is found, which is no
        promise: read such files with `weights_only=True` all the same.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
                for name in pickles:
                    with archive.open(name) as stream:
                        if found := _first_dangerous(stream):
                            return found
            return None
        with file.open("rb") as stream:
            return _first_dangerous(stream) if stream.peek(1)[:1] == b"\x80" else None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError):
        return None  # whoever reads it says what is wrong


def _first_dangerous(stream: IO[bytes]) -> str | None:
    for _ in range(_PICKLES):
        for name in _globals(stream):
            module, _, attribute = name.partition(".")
            if module in _RUNS or (module in _BUILTIN and attribute in _DANGEROUS):
                return name
    return None


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """Yield what a pickle names of modules, as "posix.system"."""
    texts: list[str] = []
    memo: dict[object, str] = {}
    last = ""  # what is on top of the stack, where it is a text
    for code, argument, _ in pickletools.genops(stream):
        if code.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
        elif code.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif code.name == "MEMOIZE":
            memo[len(memo)] = last
        elif "PUT" in code.name:
            memo[argument] = last
        else:
            value = memo.get(argument) if "GET" in code.name else argument
            last = value if isinstance(value, str) else ""
            texts += [last] if last else []
