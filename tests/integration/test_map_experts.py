"""Map experts in a whole run: their stems train, are kept, and go when they are detached."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tove.engine.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


def test_a_map_experts_stem_trains_is_saved_and_goes_with_it(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["model"]["experts"] = dict(
        edges=dict(type="edge_dexined", tiny=True, image_size=64),
        normals=dict(type="normal_depth_anything_v2", tiny=True, image_size=112),
    )
    settings["schedule"] |= dict(steps=2, warmup=0, checkpoint_interval=1)
    settings["merging"]["schedule"] = dict(steps=2)
    kept = ("TrainStage", "DetachStage", "MergeStage", "ExportStage")
    settings["stages"] = [
        stage for stage in settings["stages"] if stage["type"] in kept and "model" not in stage
    ]
    work = tmp_path / "work"
    result = launch("tools/train.py", write_config(settings), "--work-dir", work)
    assert result.returncode == 0, result.stderr[-3000:]

    trained = read_checkpoint(work / "transfer/model.pth")["state_dict"]
    (first,) = work.glob("transfer/**/iter_1.pth")
    before = read_checkpoint(first)["state_dict"]
    for slot, channels in (("edges", 1), ("normals", 3)):
        stem = f"projector.first.{slot}.stages.0"
        assert trained[f"{stem}.0.weight"].shape[1] == channels
        assert trained[f"{stem}.1.num_batches_tracked"] == 2
        for name in ("0.weight", "1.weight", "1.running_mean"):
            assert not trained[f"{stem}.{name}"].equal(before[f"{stem}.{name}"]), name
    assert all(".norm." in key for key in trained if key.startswith("hub"))

    slim = read_checkpoint(work / "detach/slim_0.pth")["state_dict"]
    assert not any("edges" in key or "normals" in key for key in slim)
    one = read_checkpoint(work / "detach/slim_1.pth")
    (attached,) = one["meta"]["attached"]
    stems = {key.split(".")[2] for key in one["state_dict"] if ".stages." in key}
    assert stems == {attached}
    assert (work / "export/config.json").exists()
