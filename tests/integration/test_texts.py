"""A text that is too long for the language model is told before the training it would spoil."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_a_statement_without_room_is_named_before_the_first_step(
    settings: dict[str, Any],
    miniature: Path,
    write_config: Callable,
    launch: Callable,
    tmp_path: Path,
):
    data = shutil.copytree(miniature / "data", tmp_path / "data")
    path = data / "annotations/statements_test.jsonl"
    path.write_text(path.read_text().replace("the red", "the " + "red " * 60, 1))
    settings["data_root"] = str(data)
    settings["stages"] = settings["stages"][:1]
    result = launch("tools/train.py", write_config(settings), "--work-dir", tmp_path / "work")
    assert result.returncode == 2, result.stderr[-2000:]
    assert "test_dataloader has a text of 7" in result.stderr
    assert "test_000.png, and the language model has room for" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "work/plain_clip/loss.jsonl").exists()


def test_words_that_the_language_model_does_not_know_are_remarked_on(
    settings: dict[str, Any],
    miniature: Path,
    write_config: Callable,
    launch: Callable,
    tmp_path: Path,
):
    data = shutil.copytree(miniature / "data", tmp_path / "data")
    path = data / "annotations/captions_train.json"
    path.write_text(path.read_text().replace("square on the", "cat behind my"))
    settings["data_root"] = str(data)
    settings["stages"] = settings["stages"][:1]
    settings["schedule"].update(steps=2, warmup=1)
    result = launch("tools/train.py", write_config(settings), "--work-dir", tmp_path / "work")
    assert result.returncode == 0, result.stderr[-2000:]
    said = result.stdout + result.stderr
    assert "% of the words to train on are unknown to the language model" in said
