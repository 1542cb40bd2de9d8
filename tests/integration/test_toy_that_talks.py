"""LLaVA's two stages on the shipped chat model: all stages run, and the experts show."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Launch

CONFIG = "configs/tiny/llava-tiny_scenes.py"
SHORT = {
    "scenes.train": 40,
    "scenes.unlabelled": 40,
    "scenes.val": 8,
    "scenes.test": 20,
    "schedule.steps": 4,
    "schedule.warmup": 1,
    "merging.schedule.steps": 2,
    "merging.schedule.warmup": 0,
    "merging.schedule.checkpoint_interval": 2,
    "aligned_dataloader.dataset.max_samples": 8,
    "stages.0.schedule.steps": 3,
    "stages.2.schedule.steps": 3,
}


def rows_of(launch: Launch, folder: Path, **options: Any) -> dict[str, dict]:
    """Run the config and return its rows by name."""
    data = {"data_root": folder / "world", "scenes.data_root": folder / "world"}
    settings = [f"{key}={value}" for key, value in (data | options).items()]
    command = ("tools/train.py", CONFIG, "--work-dir", folder / "run", "--cfg-options", *settings)
    done = launch(*command, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {row["name"]: row for row in json.loads((folder / "run/results.json").read_text())}


@pytest.mark.slow
def test_every_stage_runs_and_what_is_left_is_a_llava_folder(tmp_path: Path, launch: Launch):
    rows = rows_of(launch, tmp_path, **SHORT)
    assert list(rows) == ["clip_align", "plain_clip", "align", "tove", "merged"]
    assert rows["merged"]["total_parameters"] == rows["plain_clip"]["total_parameters"]
    assert {"chat/relation/count", "chat/relation/depth"} <= set(rows["tove"]["metrics"])
    assert (tmp_path / "run/merged/export-llava/model.safetensors").exists()
    page = (tmp_path / "run/report.html").read_text()
    assert "how many" in page  # answers are shown


@pytest.mark.heavy
@pytest.mark.slow
def test_the_experts_are_heard(tmp_path: Path, launch: Launch):
    rows = rows_of(launch, tmp_path, **{"merging.schedule.steps": 20, "scenes.unlabelled": 800})
    scores = {name: row["metrics"]["chat/accuracy"]["value"] for name, row in rows.items()}
    assert scores["tove"] > scores["plain_clip"] + 0.02
