"""Texts that a language model cannot take in are told before a training is spent on them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Run = Callable[[str, Callable[[str], str]], subprocess.CompletedProcess]


@pytest.fixture
def run_with(
    settings: dict[str, Any],
    miniature: Path,
    write_config: Callable,
    launch: Callable,
    tmp_path: Path,
) -> Run:
    """Run the first stage on the miniature's data with one annotation file changed."""

    def run(file: str, change: Callable[[str], str]) -> subprocess.CompletedProcess:
        data = shutil.copytree(miniature / "data", tmp_path / "data")
        path = data / "annotations" / file
        path.write_text(change(path.read_text()))
        settings["data_root"] = str(data)
        settings["stages"] = settings["stages"][:1]
        settings["schedule"].update(steps=2, warmup=1)
        return launch("tools/train.py", write_config(settings), "--work-dir", tmp_path / "work")

    return run


def test_a_statement_without_room_is_named_before_the_first_step(run_with: Run, tmp_path: Path):
    result = run_with(
        "statements_test.jsonl", lambda text: text.replace("the red", "the " + "red " * 60, 1)
    )
    assert result.returncode == 2, result.stderr[-2000:]
    assert "test_dataloader has a text of 7" in result.stderr
    assert "test_000.png, and the language model has room for" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "work/plain_clip/loss.jsonl").exists()


def test_words_that_the_language_model_does_not_know_are_remarked_on(run_with: Run):
    result = run_with(
        "captions_train.json", lambda text: text.replace("square on the", "cat behind my")
    )
    assert result.returncode == 0, result.stderr[-2000:]
    said = result.stdout + result.stderr
    assert "% of the words to train on are unknown to the language model" in said
