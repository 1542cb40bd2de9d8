"""Two gloo processes give the losses of one process at the same total batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tove.engine.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "tools/train.py")
TWO += ("--launcher", "pytorch")
HALVES = ("--cfg-options", "train_dataloader.batch_size=1")


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.heavy), 0.4])
def test_two_processes_train_as_one(
    dropout: float,
    settings: dict[str, Any],
    write_config: Callable,
    launch: Callable,
    tmp_path: Path,
):
    settings["model"]["expert_dropout"] = dropout
    settings["schedule"].update(steps=4, clip=None)
    settings["train_dataloader"]["batch_size"] = 2
    settings["stages"] = [dict(type="TrainStage", name="transfer", row="tove")]
    config = write_config(settings)

    one = launch("tools/train.py", config, "--work-dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-3000:]
    two = launch(*TWO, config, "--work-dir", tmp_path / "two", *HALVES)
    assert two.returncode == 0, two.stderr[-3000:]

    curves = [
        [
            json.loads(line)
            for line in (tmp_path / name / "transfer/loss.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    ]
    assert len(curves[0]) == len(curves[1]) == 4
    for single, double in zip(*curves, strict=True):
        assert double == pytest.approx(single, rel=1e-4, abs=1e-7)
    rows = [json.loads((tmp_path / n / "results.json").read_text())[0] for n in ("one", "two")]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    # Eight draws of twelve images: what is counted are those that the two drew together.
    assert rows[0]["training_images"] == rows[1]["training_images"] <= 8
    seen = [(tmp_path / name / "transfer/images_seen.txt").read_text() for name in ("one", "two")]
    assert seen[0] == seen[1]


@pytest.mark.heavy
def test_an_interrupted_training_goes_on_with_as_many_processes_and_no_other(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["schedule"].update(steps=4)
    settings["stages"] = [dict(type="TrainStage", name="transfer", row="tove")]
    config, folder = write_config(settings), tmp_path / "work" / "transfer"
    first = launch(*TWO, config, "--work-dir", folder.parent)
    assert first.returncode == 0, first.stderr[-3000:]
    for name in ("done.json", "rows.json", "model.pth", "iter_4.pth"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("iter_2.pth")

    one = launch("tools/train.py", config, "--work-dir", folder.parent, "--resume")
    assert one.returncode == 2
    assert "by 2 processes without --amp, which 1 process without --amp cannot" in one.stderr
    assert "torchrun --nproc_per_node=2" in one.stderr
    assert "Traceback" not in one.stderr
    again = launch(*TWO, config, "--work-dir", folder.parent, "--resume")
    assert again.returncode == 0, again.stderr[-3000:]
    assert (folder / "iter_4.pth").exists()

    kept = launch("tools/train.py", config, "--work-dir", folder.parent, "--resume")
    assert kept.returncode == 0, kept.stderr[-3000:]
    assert "transfer: finished earlier, kept" in kept.stdout


def test_the_ranking_does_not_depend_on_the_number_of_processes(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["val_dataloader"]["dataset"]["max_samples"] = 5  # the sampler repeats one
    settings["stages"] = [
        dict(type="TrainStage", name="transfer", row="tove"),
        dict(type="DetachStage", name="detach", source="transfer", budget=[]),
    ]
    config = write_config(settings)
    one = launch("tools/train.py", config, "--work-dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-3000:]
    alone = ("--stage", "detach", "--checkpoint", tmp_path / "one/transfer/model.pth")
    two = launch(*TWO, config, "--work-dir", tmp_path / "two", *alone)
    assert two.returncode == 0, two.stderr[-3000:]
    rankings = [
        json.loads((tmp_path / name / "detach/ranking.json").read_text()) for name in ("one", "two")
    ]
    for single, double in zip(*rankings, strict=True):
        assert single["slot"] == double["slot"]
        assert single["score"] == pytest.approx(double["score"], abs=1e-6)


def test_two_sharded_processes_train_as_one_and_what_they_leave_loads_in_one(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["schedule"].update(steps=6, checkpoint_interval=3)
    settings["train_dataloader"]["batch_size"] = 2
    settings["stages"] = [dict(type="TrainStage", name="transfer", row="tove")]
    one = launch("tools/train.py", write_config(settings), "--work-dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-3000:]

    settings["model_wrapper_cfg"] = dict(type="FullyShard", min_parameters=1000)
    config, folder = write_config(settings, "sharded.py"), tmp_path / "two/transfer"
    two = launch(*TWO, config, "--work-dir", folder.parent, *HALVES)
    assert two.returncode == 0, two.stderr[-3000:]

    def curve(name: str) -> list[dict[str, float]]:
        lines = (tmp_path / name / "transfer/loss.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    assert len(curve("two")) == 6
    for single, double in zip(curve("one"), curve("two"), strict=True):
        assert double == pytest.approx(single, rel=1e-4, abs=1e-6)
    rows = [json.loads((tmp_path / n / "results.json").read_text())[0] for n in ("one", "two")]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    assert rows[0]["model"] == rows[1]["model"] == "ToVE"

    # Each process keeps its own parts, which are the whole together.
    alone, parts = (read_checkpoint(tmp_path / n / "transfer/iter_3.pth") for n in ("one", "two"))
    assert alone["state_dict"].keys() == parts["state_dict"].keys()
    for name, tensor in alone["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], tensor, rtol=1e-3, atol=1e-5)
    moments = [checkpoint["optimizer"]["state"][0]["exp_avg"] for checkpoint in (alone, parts)]
    assert moments[0].shape == moments[1].shape
    assert 0 < (folder / "iter_3.shard_1").stat().st_size < (folder / "iter_3.pth").stat().st_size
    # One part is damaged: both go on from the checkpoint before, and take the same further steps.
    before = curve("two")
    for name in ("done.json", "rows.json", "model.pth"):
        (folder / name).unlink()
    (folder / "iter_6.shard_1").write_bytes(b"half")
    again = launch(*TWO, config, "--work-dir", folder.parent, "--resume", *HALVES)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "iter_6.shard_1 cannot be read" in again.stdout + again.stderr
    for then, now in zip(before, curve("two"), strict=True):
        assert now == pytest.approx(then, rel=1e-5, abs=1e-7)

    tested = launch(
        "tools/test.py", config, folder / "model.pth", "--work-dir", tmp_path / "tested"
    )
    assert tested.returncode == 0, tested.stderr[-3000:]
    (row,) = json.loads((tmp_path / "tested/test-test/rows.json").read_text())
    assert row["metrics"] == rows[1]["metrics"]


@pytest.mark.heavy
def test_two_sharded_processes_average_as_one(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["schedule"].update(steps=4, checkpoint_interval=2)
    settings["train_dataloader"]["batch_size"] = 2
    settings["custom_hooks"] = [dict(type="EMAHook", momentum=0.2)]
    settings["stages"] = [dict(type="TrainStage", name="transfer", row="tove")]
    one = launch("tools/train.py", write_config(settings), "--work-dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr[-3000:]
    settings["model_wrapper_cfg"] = dict(type="FullyShard", min_parameters=1000)
    config, folder = write_config(settings, "sharded.py"), tmp_path / "two/transfer"
    two = launch(*TWO, config, "--work-dir", folder.parent, *HALVES)
    assert two.returncode == 0, two.stderr[-3000:]

    def compare(rtol: float) -> None:
        alone, sharded = (
            read_checkpoint(tmp_path / name / "transfer/model.pth")["state_dict"]
            for name in ("one", "two")
        )
        for name, tensor in alone.items():
            torch.testing.assert_close(sharded[name], tensor, rtol=rtol, atol=1e-5)

    compare(1e-3)
    for path in (*folder.glob("iter_4.*"), *folder.glob("*.json"), folder / "model.pth"):
        if path.name != "config.json":
            path.unlink()
    (folder / "last_checkpoint").write_text("iter_2.pth")
    again = launch(*TWO, config, "--work-dir", folder.parent, "--resume", *HALVES)
    assert again.returncode == 0, again.stderr[-3000:]
    compare(1e-3)
