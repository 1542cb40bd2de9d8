"""An interrupted run goes on as if nothing had happened: killed without warning, same losses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from transformers import CLIPVisionModel

from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.errors import CheckpointError

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
STEPS = 40


def curve(work: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (work / stage / "loss.jsonl").read_text().splitlines()]


def kill_when(
    condition: Callable[[], bool], process: subprocess.Popen, timeout: float = 90
) -> None:
    """Send SIGKILL as soon as the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def resumable(settings: dict[str, Any]) -> dict[str, Any]:
    """Two training stages whose steps draw random numbers (expert dropout, gate noise)."""
    settings["schedule"].update(steps=STEPS, checkpoint_interval=10)
    settings["model"].update(expert_dropout=0.4, gate={"noise": 1.0})
    settings["merging"]["schedule"] = {"steps": STEPS}
    settings["stages"] = [
        entry for entry in settings["stages"] if entry["name"] in ("transfer", "merge")
    ]
    return settings


def test_killed_twice_and_resumed_gives_the_losses_of_an_uninterrupted_run(
    resumable: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    config = write_config(resumable)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    result = launch("tools/train.py", config, "--work-dir", whole)
    assert result.returncode == 0, result.stderr[-3000:]

    for stage in ("transfer", "merge"):
        command = [sys.executable, "tools/train.py", config, "--work-dir", broken, "--resume"]
        with (tmp_path / f"{stage}.log").open("w") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
            saved = broken / stage / "iter_10.pth"
            beyond = broken / stage / "loss.jsonl"
            kill_when(
                lambda saved=saved, beyond=beyond: (
                    saved.exists() and len(beyond.read_text().splitlines()) > 12
                ),
                process,
            )
        assert len(curve(broken, stage)) < STEPS, "killed too late to test anything"

    result = launch("tools/train.py", config, "--work-dir", broken, "--resume")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "transfer: finished earlier, kept" in result.stdout
    for stage in ("transfer", "merge"):
        assert curve(broken, stage) == curve(whole, stage)
    ours, theirs = (json.loads((w / "results.json").read_text()) for w in (broken, whole))
    assert [row["metrics"] for row in ours] == [row["metrics"] for row in theirs]


@pytest.mark.heavy
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    resumable: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    resumable["schedule"].update(steps=4, checkpoint_interval=2)
    resumable["stages"] = resumable["stages"][:1]
    config, work = write_config(resumable), tmp_path / "work"
    assert launch("tools/train.py", config, "--work-dir", work).returncode == 0
    (work / "transfer" / "done.json").unlink()
    last = work / "transfer" / "iter_4.pth"
    last.write_bytes(last.read_bytes()[:100])
    losses = (work / "transfer/loss.jsonl").read_text()
    result = launch("tools/train.py", config, "--work-dir", work, "--resume")
    assert result.returncode == 0, result.stderr[-2000:]
    said = result.stdout + result.stderr
    assert "iter_4.pth cannot be read as a checkpoint" in said
    assert "Going on from iter_2.pth." in said
    assert (work / "transfer/loss.jsonl").read_text() == losses

    (work / "transfer" / "done.json").unlink()
    for path in (work / "transfer").glob("iter_*.pth"):
        path.write_bytes(b"")
    result = launch("tools/train.py", config, "--work-dir", work, "--resume")
    assert result.returncode == 2
    assert "can be resumed from; run without --resume" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("swapped", [False, True])
def test_a_training_does_not_go_on_in_front_of_other_frozen_weights(
    swapped: bool, resumable: dict[str, Any], miniature: Path, tmp_path: Path
):
    clip, work = tmp_path / "clip", tmp_path / "work"
    shutil.copytree(miniature / "clip", clip)
    resumable["schedule"].update(steps=4, checkpoint_interval=2)
    resumable["model"]["encoder"]["pretrained"] = str(clip)
    resumable["stages"] = resumable["stages"][:1]
    run_here(resumable, work)
    folder = work / "transfer"
    for name in ("done.json", "rows.json", "model.pth", "iter_4.pth"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("iter_2.pth")
    before = (folder / "iter_2.pth").read_bytes()

    encoder = CLIPVisionModel.from_pretrained(clip)
    encoder.vision_model.encoder.layers[0].mlp.fc1.weight.data.mul_(1.1)
    encoder.save_pretrained(clip)
    if swapped:
        del resumable["model"]["experts"]["dino"]
    with pytest.raises(CheckpointError, match=r"trained with another encoder.*encoder\.pretrained"):
        run_here(resumable, work)
    kept = folder / ("earlier.pth" if swapped else "iter_2.pth")
    assert kept.read_bytes() == before  # what dino learned is still in it


def run_here(settings: dict[str, Any], work: Path) -> None:
    cfg = Config(deepcopy(settings) | {"work_dir": str(work)})
    check_config(cfg)
    StagedRunner(cfg, resume=True).run()
