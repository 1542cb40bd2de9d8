"""Experts are swapped: between runs, within a run that goes on, and under a licence's terms."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tove import cli
from tove.engine.checkpoint import read_checkpoint
from tove.engine.stages.state import EARLIER

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
DINO = "model.experts.dino"
W_DEPTH = "projector.first.depth.weight"

Train = Callable[..., tuple[int, str, str]]


def command(name: str, write_config: Callable, capsys: pytest.CaptureFixture) -> Train:
    """Give a function that runs a tool as its command does: exit status, and what was said."""
    parse = runpy.run_path(str(REPOSITORY / "tools" / f"{name}.py"))["parse_args"]

    def run(settings: dict[str, Any], work: Path, *options: str) -> tuple[int, str, str]:
        path = write_config(settings)
        args = parse([str(path), *options, "--work-dir", str(work)])
        status = getattr(cli, name)(args)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def train(write_config: Callable, capsys: pytest.CaptureFixture) -> Train:
    """Train as the command does."""
    return command("train", write_config, capsys)


@pytest.fixture
def evaluate(write_config: Callable, capsys: pytest.CaptureFixture) -> Train:
    """Test a checkpoint as the command does."""
    return command("test", write_config, capsys)


@pytest.fixture
def transfer_only(settings: dict[str, Any]) -> dict[str, Any]:
    """The miniature run with the transfer stage alone."""
    settings["stages"] = [dict(type="TrainStage", name="transfer", row="tove")]
    return settings


def interrupt(work: Path, step: int) -> Path:
    """Leave a finished transfer stage as a crash after `step` steps would have left it."""
    folder = work / "transfer"
    for name in ("done.json", "rows.json", "model.pth"):
        (folder / name).unlink()
    last = folder / f"iter_{step}.pth"
    for path in folder.glob("iter_*.pth"):
        if path != last:
            path.unlink()
    (folder / "last_checkpoint").write_text(str(last))
    return last


def row_of(work: Path, name: str = "tove") -> dict[str, Any]:
    rows = json.loads((work / "results.json").read_text())
    return next(row for row in rows if row["name"] == name)


def add_segmentation(settings: dict[str, Any]) -> None:
    settings["model"]["experts"]["segmentation"] = dict(type="tiny_segmentation", tiny=True)


def test_an_interrupted_training_with_other_experts_begins_from_what_it_had_learned(
    transfer_only: dict[str, Any], train: Train, tmp_path: Path
):
    assert train(transfer_only, tmp_path)[0] == 0
    before = read_checkpoint(interrupt(tmp_path, step=4))["state_dict"]

    del transfer_only["model"]["experts"]["dino"]
    add_segmentation(transfer_only)
    status, out, err = train(transfer_only, tmp_path, "--resume")
    assert status == 0, err
    told = "kept: depth; new: segmentation (fresh layers); dropped: dino"
    assert f"{EARLIER}; {told}" in " ".join(out.split())
    earlier = read_checkpoint(tmp_path / "transfer" / EARLIER)
    assert torch.equal(earlier["state_dict"][W_DEPTH], before[W_DEPTH])
    trained = read_checkpoint(tmp_path / "transfer" / "model.pth")["state_dict"]
    assert not torch.equal(trained[W_DEPTH], before[W_DEPTH])
    curve = (tmp_path / "transfer" / "loss.jsonl").read_text().splitlines()
    assert [json.loads(line)["iter"] for line in curve] == [1, 2, 3, 4, 5, 6]
    row = row_of(tmp_path)
    assert (row["experts"], row["steps"]) == (["depth", "segmentation"], 10)
    assert list(row["cost"]["experts"]) == ["depth", "segmentation"]


@pytest.mark.heavy
def test_a_slot_s_other_expert_starts_with_fresh_layers(
    transfer_only: dict[str, Any], train: Train, tmp_path: Path
):
    transfer_only["schedule"]["steps"] = 6
    assert train(transfer_only, tmp_path)[0] == 0
    options = ("--resume", "--cfg-options", f"{DINO}.type=tiny_detection")
    status, out, err = train(transfer_only, tmp_path, *options)
    assert status == 0, err
    told = "replaced: dino (fresh layers: it was 'tiny_dino' and is 'tiny_detection')"
    assert told in " ".join(out.split())


@pytest.mark.heavy
def test_a_finished_run_goes_on_with_one_more_expert(
    settings: dict[str, Any], train: Train, tmp_path: Path
):
    settings["stages"] = settings["stages"][:4]  # up to the detachment
    assert train(settings, tmp_path)[0] == 0
    plain, baseline = row_of(tmp_path, "plain_clip"), row_of(tmp_path, "baseline")
    learned = read_checkpoint(tmp_path / "transfer" / "model.pth")["state_dict"]

    add_segmentation(settings)
    status, out, err = train(settings, tmp_path, "--resume")
    assert status == 0, err
    out = " ".join(out.split())
    assert "plain_clip: the experts have changed; it runs no expert, so it stays as it is" in out
    assert "plain_clip: finished earlier, kept" in out
    assert "baseline: the experts have changed; it depends on all of them" in out
    earlier = tmp_path / "transfer" / EARLIER
    assert f"{EARLIER}; kept: depth, dino; new: segmentation (fresh layers)" in out
    assert torch.equal(read_checkpoint(earlier)["state_dict"][W_DEPTH], learned[W_DEPTH])
    assert row_of(tmp_path, "plain_clip") == plain
    grown = row_of(tmp_path, "baseline")["trainable_parameters"]
    assert grown > baseline["trainable_parameters"]
    row = row_of(tmp_path)
    assert (row["experts"], row["steps"]) == (["depth", "dino", "segmentation"], 12)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [len(r["experts"]) for r in rows if r["stage"] == "detach"] == [2, 1, 0]

    again = train(settings, tmp_path, "--resume")
    assert again[1].count("finished earlier, kept") == 4


@pytest.mark.heavy
def test_a_crash_before_the_first_checkpoint_loses_nothing_that_was_learned(
    transfer_only: dict[str, Any], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert train(transfer_only, tmp_path)[0] == 0
    add_segmentation(transfer_only)
    with monkeypatch.context() as patched:
        patched.setattr("tove.engine.stages.train.build_stage_runner", lambda plan: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(transfer_only, tmp_path, "--resume")
    status, out, err = train(transfer_only, tmp_path, "--resume")
    assert status == 0, err
    assert "kept: depth, dino; new: segmentation" in " ".join(out.split())
    assert row_of(tmp_path)["steps"] == 12


def test_a_stage_starts_from_a_checkpoint_of_other_experts(
    transfer_only: dict[str, Any], train: Train, tmp_path: Path
):
    assert train(transfer_only, tmp_path / "one")[0] == 0
    checkpoint = tmp_path / "one" / "transfer" / "model.pth"
    transfer_only["model"]["experts"].pop("depth")
    add_segmentation(transfer_only)
    transfer_only["schedule"]["steps"] = 3
    options = ("--stage", "transfer", "--checkpoint", str(checkpoint))
    status, out, err = train(transfer_only, tmp_path / "two", *options)
    assert status == 0, err
    told = "kept: dino; new: segmentation (fresh layers); dropped: depth"
    assert told in " ".join(out.split())
    row = row_of(tmp_path / "two")
    assert row["steps"] == 9
    assert row["training_images"] == row_of(tmp_path / "one")["training_images"]


def test_other_settings_are_still_refused_with_their_names(
    transfer_only: dict[str, Any], train: Train, tmp_path: Path
):
    assert train(transfer_only, tmp_path)[0] == 0
    add_segmentation(transfer_only)
    transfer_only["schedule"]["lr"] = 0.5
    status, _, err = train(transfer_only, tmp_path, "--resume")
    assert status == 2
    assert "schedule.lr: 0.01 -> 0.5" in err
    assert "segmentation" not in err


def test_licences_are_told_at_the_start_and_kept_with_the_checkpoint(
    transfer_only: dict[str, Any], train: Train, tmp_path: Path
):
    del transfer_only["model"]["experts"]["depth"]["tiny"]
    status, out, _ = train(transfer_only, tmp_path)
    assert status == 0
    assert "hub: Apache-2.0, none: random weights → commercial use allowed" in " ".join(out.split())
    meta = read_checkpoint(tmp_path / "transfer" / "model.pth")["meta"]
    terms = {entry["slot"]: entry for entry in meta["licences"]}
    assert terms["depth"]["licence"] == "Apache-2.0"
    assert terms["dino"]["commercial_use"] is True
    assert meta["experts"]["dino"]["options"] == {"tiny": True}


def test_a_commercial_run_is_refused_before_any_work(
    transfer_only: dict[str, Any], train: Train, tmp_path: Path, miniature: Path
):
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"not looked into")
    transfer_only["model"]["experts"]["depth"] = dict(type="tiny_depth", weights=str(own))
    policy = ("--cfg-options", "hub.allow_noncommercial=False")
    status, _, err = train(transfer_only, tmp_path / "work", *policy)
    assert status == 2
    assert "model.experts.depth" in err
    assert "your own file" in err
    assert not (tmp_path / "work").exists()


def test_a_commercial_test_is_refused_unless_the_expert_is_detached(
    transfer_only: dict[str, Any], train: Train, evaluate: Train, tmp_path: Path
):
    transfer_only["stages"].append(dict(type="DetachStage", name="detach", source="transfer"))
    assert train(transfer_only, tmp_path)[0] == 0
    terms = dict(name="CC-BY-NC-4.0", commercial_use=False)
    (removed, *_) = json.loads((tmp_path / "detach" / "ranking.json").read_text())
    transfer_only["model"]["experts"][removed["slot"]]["licence"] = terms
    transfer_only["hub"] = dict(allow_noncommercial=False)
    status, _, err = evaluate(transfer_only, tmp_path, str(tmp_path / "transfer" / "model.pth"))
    assert status == 2
    assert f"model.experts.{removed['slot']} is expert" in err
    assert "CC-BY-NC-4.0, which does not allow commercial use" in err
    status, _, err = evaluate(transfer_only, tmp_path, str(tmp_path / "detach" / "slim_1.pth"))
    assert status == 0, err
