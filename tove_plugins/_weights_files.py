"""Tell from the heads of weights files that they are whole; no tensor is read, torch not imported.

What stands in their place most often: a Git LFS pointer, the page of a site that wanted a login, a
download that broke off, another program's format, a pickle that runs something.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

__all__ = ["WEIGHT_SUFFIXES", "weights_problem"]

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_HEAD = 512
_NO_GGUF = "quantised for llama.cpp, which is not read here; fetch the safetensors instead."
_OBJECTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def weights_problem(path: Path) -> str | None:
    """Say what a weights file, or one of a folder's, is instead; None where its head is sound.

    Args:
        path: A file of any name, or a folder whose `WEIGHT_SUFFIXES` and JSON files are looked at.
            What is not there has no problem here.

    Returns:
        A sentence with its remedy.
    """
    if path.is_file():
        return _problem(path)
    if not path.is_dir():
        return None
    files = [file for suffix in WEIGHT_SUFFIXES for file in sorted(path.glob(f"*{suffix}"))]
    if not files and any(path.glob("*.gguf")):
        return f"{path} holds GGUF files alone, {_NO_GGUF}"
    files += sorted(path.glob("*.json"))
    found = (_problem(file) for file in files if file.is_file())
    return next((problem for problem in found if problem), None)


def _problem(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        return f"{file} is empty; fetch it again."
    if head.startswith(b"version https://git-lfs"):
        return (
            f"{file} is a Git LFS pointer of {size} bytes and not the weights; run `git lfs pull` "
            "in its repository, or fetch the file itself."
        )
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return (
            f"{file} is a web page and not the weights: the site wanted a login, or the address "
            "is that of its page; fetch the file itself."
        )
    if head.startswith(b"GGUF"):
        return f"{file} is a GGUF file, {_NO_GGUF}"
    if file.suffix == ".json":
        return _json_problem(file)
    if file.suffix == ".safetensors":
        return _safetensors_problem(file, size)
    if head.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(file):  # as torch writes
        return f"{file} is cut off: its end is missing; fetch it again."
    return _code_problem(file)


def _code_problem(file: Path) -> str | None:
    from tove_plugins._pickled_code import pickled_code

    code = pickled_code(file)
    return code and (
        f"{file} is a pickle that would run {code} when it is read, so it is not read: weights are "
        "data. Ask whoever made it for safetensors."
    )


def _json_problem(file: Path) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"{file} is not valid JSON ({error}); fetch it again."
    if not isinstance(content, dict) and file.name in _OBJECTS:
        return f"{file} holds {str(content)[:40]!r} and not settings; fetch it again."
    return None


def _safetensors_problem(file: Path, size: int) -> str | None:
    """Hold a file's size against what its header says: length, JSON, tensors behind each other."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length <= size else b""
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        whole = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        cut = f"{file} is no safetensors file, or cut off within its header; fetch it again."
        return _code_problem(file) or cut
    if size < whole:
        return f"{file} is cut off: {size:,} of {whole:,} bytes are there; fetch it again."
    return None
