"""What stands in the place of weights is told from its head, and whole files pass."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tove_plugins import weights_problem

WHOLE = save({"a.weight": torch.ones(40, 5), "b": torch.zeros(3)}, {"format": "pt"})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pth"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (POINTER, "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"<HTML><body>log in", "web page"),
        (b"GGUF\x03\0\0\0", "llama.cpp"),
    ],
)
def test_what_is_no_weights_file(tmp_path: Path, suffix: str, content: bytes, said: str):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    for path in (file, tmp_path):  # a folder is as good as its files
        found = weights_problem(path)
        assert found is not None
        assert str(file) in found
        assert said in found


def test_every_cut_of_safetensors_is_told(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(WHOLE)
    assert weights_problem(file) is None
    for length in range(1, len(WHOLE)):
        file.write_bytes(WHOLE[:length])
        assert weights_problem(file) is not None, length


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, zipped: bool):
    file = tmp_path / "model.pth"
    torch.save({"a": torch.ones(30)}, file, _use_new_zipfile_serialization=zipped)
    assert weights_problem(file) is None
    whole = file.read_bytes()
    if zipped:
        file.write_bytes(whole[:-40])
        assert "cut off" in str(weights_problem(file))
    file.write_bytes(b"a plugin's own format")
    assert weights_problem(file) is None


class Bomb:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch bomb",))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_something(tmp_path: Path, protocol: int):
    content = {"a": [1, "posix", "posix"], "b": Bomb(), "c": Bomb()}
    raw, archive = tmp_path / "raw.bin", tmp_path / "archive.pth"
    raw.write_bytes(pickle.dumps(content, protocol))
    torch.save(content, archive, pickle_protocol=protocol)
    found = [weights_problem(file) for file in (archive, raw)]
    named = tmp_path / "named.safetensors"
    named.write_bytes(raw.read_bytes())
    found.append(weights_problem(named))
    for said in found:
        assert "is a pickle that would run posix.system" in str(said)


def test_a_name_that_was_used_before_is_seen(tmp_path: Path):
    file = tmp_path / "model.bin"
    file.write_bytes(pickle.dumps(["posix", "system", Bomb()], 4))
    assert "posix.system" in str(weights_problem(file))
    file.write_bytes(pickle.dumps({"posix": "system", "os": torch.Size([1])}, 4))
    assert weights_problem(file) is None


def test_what_is_elsewhere_is_no_problem_here(tmp_path: Path):
    assert weights_problem(tmp_path / "nowhere.safetensors") is None
    assert weights_problem(tmp_path) is None
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "GGUF files alone" in str(weights_problem(tmp_path))
