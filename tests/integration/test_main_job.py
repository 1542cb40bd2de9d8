"""The main job on the shipped config and weights, shortened: the experts' knowledge must show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/tiny/tove-tiny_scenes.py"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Rows by name of a run of all stages."""
    folder = tmp_path_factory.mktemp("main_job")
    options = {
        "data_root": folder / "world",
        "scenes.data_root": folder / "world",
        "scenes.train": 500,
        "scenes.unlabelled": 200,
        "scenes.val": 60,
        "scenes.test": 250,
        "schedule.steps": 350,
        "merging.schedule.steps": 40,
        "merging.schedule.warmup": 5,
        "test_dataloader.dataset.datasets.1.max_samples": 20,
    }
    command = [sys.executable, "tools/train.py", CONFIG, "--work-dir", str(folder / "run")]
    command += ["--cfg-options", *(f"{key}={value}" for key, value in options.items())]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (folder / "run" / "report.html").stat().st_size > 100_000
    assert (folder / "run" / "export" / "model.safetensors").exists()
    return {row["name"]: row for row in json.loads((folder / "run/results.json").read_text())}


def accuracy(row: dict) -> float:
    """Share of held-out statements answered rightly."""
    return row["metrics"]["vsr/accuracy"]["value"]


@pytest.mark.slow
def test_experts_beat_as_many_parameters_without_them(rows: dict[str, dict]):
    baseline, tove = rows["baseline"], rows["tove"]
    parameters = baseline["trainable_parameters"] / tove["trainable_parameters"]
    assert 0.99 < parameters < 1.01
    assert baseline["steps"] == tove["steps"]
    assert baseline["training_images"] == tove["training_images"]
    assert accuracy(tove) > accuracy(baseline) + 0.04


@pytest.mark.slow
def test_every_row_is_there_with_its_cost(rows: dict[str, dict]):
    detached = [name for name in rows if name.startswith("tove-")]
    assert {"plain_clip", "baseline", "tove", "merged"} < set(rows)
    assert len(detached) == 4
    assert [len(rows[name]["experts"]) for name in detached] == [3, 2, 1, 0]
    assert rows["merged"]["total_parameters"] == rows["plain_clip"]["total_parameters"]
    for row in rows.values():
        metric = row["metrics"]["vsr/accuracy"]
        assert metric["low"] < metric["value"] < metric["high"]
        assert metric["n"] > 500
        assert "caption/CIDEr" in row["metrics"]
