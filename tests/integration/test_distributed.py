"""Two gloo processes give the losses of one process at the same total batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_two_processes_train_as_one(
    dropout: float,
    settings: dict[str, Any],
    write_config: Callable,
    launch: Callable,
    tmp_path: Path,
):
    settings["model"]["expert_dropout"] = dropout
    settings["schedule"].update(steps=8, clip=None)
    settings["stages"] = [dict(type="TransferStage", name="transfer")]
    config = write_config(settings)

    one = launch("tools/train.py", config, "--work-dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-3000:]
    two = launch(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("tools/train.py", config, "--work-dir", tmp_path / "two", "--launcher", "pytorch"),
        *("--cfg-options", "train_dataloader.batch_size=2"),
    )
    assert two.returncode == 0, two.stderr[-3000:]

    curves = [
        [
            json.loads(line)
            for line in (tmp_path / name / "transfer/loss.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    ]
    assert len(curves[0]) == len(curves[1]) == 8
    for single, double in zip(*curves, strict=True):
        assert double == pytest.approx(single, rel=1e-4, abs=1e-7)
    rows = [json.loads((tmp_path / n / "results.json").read_text())[0] for n in ("one", "two")]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    assert rows[0]["training_images"] == rows[1]["training_images"]
