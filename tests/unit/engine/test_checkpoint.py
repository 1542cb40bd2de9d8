import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from tove.atomic_io import AtomicBackend, atomic_writer, write_text
from tove.engine.checkpoint import (
    read_checkpoint,
    resumable_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from tove.engine.provenance import check_provenance
from tove.errors import CheckpointError

DEPTH = {
    "name": "tiny_depth",
    "distribution": "p",
    "version": "1",
    "sha256": "ab" * 32,
    "options": {},
}


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_was_saved_is_read(tmp_path: Path):
    model = nn.Linear(2, 2)
    save_checkpoint(tmp_path / "a" / "x.pth", model, {"steps": 3})
    checkpoint = read_checkpoint(tmp_path / "a" / "x.pth")
    assert checkpoint["meta"]["steps"] == 3
    assert torch.equal(checkpoint["state_dict"]["weight"], model.weight)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.pth"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "x.pth"
    save_checkpoint(path, nn.Linear(2, 2), {"steps": 1})
    with monkeypatch.context() as patched:
        patched.setattr(os, call, full_disk)
        with pytest.raises(CheckpointError, match=r"No space left on device.*untouched"):
            AtomicBackend().put(b"new", path)
    assert read_checkpoint(path)["meta"]["steps"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_an_interrupted_write_leaves_the_previous_file(tmp_path: Path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def interrupted() -> None:
        with atomic_writer(path, "w") as stream:
            stream.write("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_missing_a_damaged_and_a_foreign_file_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        read_checkpoint(tmp_path / "x.pth")
    save_checkpoint(tmp_path / "x.pth", nn.Linear(2, 2), {})
    content = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"x\.pth cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "x.pth")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no 'state_dict'"):
        read_checkpoint(tmp_path / "x.pth")


class Bomb:
    def __reduce__(self) -> tuple:
        return (os.mkdir, (os.environ["BOMB"],))


def test_no_code_runs_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "bomb"))
    torch.save({"state_dict": {}, "meta": Bomb()}, tmp_path / "x.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("x.pth", "raw.pth"):
        with pytest.raises(CheckpointError, match=r"would run posix\.mkdir") as refusal:
            read_checkpoint(tmp_path / name)
        assert "damaged" not in str(refusal.value)
    assert not (tmp_path / "bomb").exists()


def test_a_class_in_a_checkpoint_is_named(tmp_path: Path):
    torch.save({"state_dict": {}, "meta": argparse.Namespace(a=1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"holds argparse\.Namespace, which is code"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"dino": DEPTH}, "has no expert 'dino', which the config attaches"),
        ({"depth": DEPTH | {"name": "other"}}, r"Set model\.experts\.depth\.type=tiny_depth"),
        ({"depth": DEPTH | {"sha256": "cd" * 32}}, r"weights .* others .* cdcdcdcdcdcd now"),
        ({"depth": DEPTH | {"options": {"layer": -2}}}, r"options .* \{\} and are .*'layer': -2"),
    ],
)
def test_another_expert_or_other_weights_are_refused(now: dict, message: str):
    with pytest.raises(CheckpointError, match=message):
        check_provenance({"depth": DEPTH}, now, "x.pth")


def test_another_version_with_the_same_weights_is_only_remarked():
    remarks = check_provenance({"depth": DEPTH}, {"depth": DEPTH | {"version": "2"}}, "x.pth")
    assert len(remarks) == 1
    assert "trained with p 1" in remarks[0]


def test_an_expert_of_the_same_name_from_elsewhere_needs_a_digest_to_vouch_for_it():
    moved = DEPTH | {"distribution": "q"}
    assert "q 1" in check_provenance({"depth": DEPTH}, {"depth": moved}, "x.pth")[0]
    unknown = {"sha256": None}
    with pytest.raises(CheckpointError, match="was that of p and is that of q"):
        check_provenance({"depth": DEPTH | unknown}, {"depth": moved | unknown}, "x.pth")


def test_a_checkpoint_from_before_options_were_kept_is_still_read():
    old = {key: value for key, value in DEPTH.items() if key != "options"}
    assert check_provenance({"depth": old}, {"depth": DEPTH | {"options": {"a": 1}}}, "x.pth") == []


def test_a_detached_expert_needs_no_match():
    assert check_provenance({"depth": DEPTH}, {}, "x.pth") == []


def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before(tmp_path, caplog):
    assert resumable_checkpoint(tmp_path) is None
    for step in (8, 9, 10):
        write_checkpoint(tmp_path / f"iter_{step}.pth", {"state_dict": {}, "meta": {}})
    (tmp_path / "last_checkpoint").write_text("iter_10.pth")
    assert resumable_checkpoint(tmp_path)[0] == tmp_path / "iter_10.pth"
    (tmp_path / "iter_10.pth").write_bytes(b"half")
    assert resumable_checkpoint(tmp_path)[0] == tmp_path / "iter_9.pth"
    (tmp_path / "iter_9.pth").unlink()
    (tmp_path / "iter_8.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="can be resumed from; run without --resume"):
        resumable_checkpoint(tmp_path)


def test_what_a_single_process_keeps_of_a_sharded_training_is_whole(tmp_path):
    part = {"part of a sharded tensor": torch.ones(6), "shape": [3, 2]}
    path = tmp_path / "iter_2.pth"
    write_checkpoint(path, {"state_dict": {"weight": part}, "meta": {}, "shards": 1})
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], torch.ones(3, 2))
    assert read_checkpoint(path, part=0)["state_dict"]["weight"]["shape"] == [3, 2]
