"""What a run has left is looked at before it is used, and at no moment says more than there is."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from tove.atomic_io import write_text
from tove.engine.checkpoint import (
    read_checkpoint,
    resumable_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from tove.engine.pipeline import StagedRunner
from tove.engine.stages.state import StageRecord
from tove.errors import CheckpointError, ConfigError
from tove.registry import STAGES

ROW = {
    "experts": [],
    "metrics": {"vsr/accuracy": {"value": 0.5}},
    "trainable_parameters": 1,
    "total_parameters": 2,
    "forward_ms": 1.0,
    "training_images": 3,
}


class Learns:
    """A stage that learns one number in four steps, with a checkpoint after each second one."""

    depends_on = ("model", "schedule")
    repeats = False

    def __init__(self, name: str) -> None:
        self.name = name

    def with_other_experts(self, context: Any) -> str:
        return "carry over"

    def run(self, context: Any) -> list[dict[str, Any]]:
        folder: Path = context.folder(self.name)
        earlier = folder / "earlier.pth"
        start = read_checkpoint(earlier)["meta"]["steps"] if earlier.exists() else 0
        found = resumable_checkpoint(folder) if context.resume else None
        taken = found[1]["meta"]["steps"] if found else start
        for step in range(taken - start + 1, 5):
            taken = start + step
            if step % 2 == 0:
                path = folder / f"iter_{step}.pth"
                save_checkpoint(path, nn.Linear(1, 1), {"steps": taken})
                write_text(folder / "last_checkpoint", path.name)
        save_checkpoint(folder / "model.pth", nn.Linear(1, 1), {"steps": taken})
        save_checkpoint(folder / "slim_0.pth", nn.Linear(1, 1), {})
        write_text(folder / "images_seen.txt", "0\n1\n2\n")
        return [ROW | {"name": self.name, "steps": taken, "stage": self.name}]


@pytest.fixture(autouse=True)
def _stage() -> Iterator[None]:
    STAGES.register_module(name="Learns", module=Learns)
    yield
    STAGES.module_dict.pop("Learns")


def run(folder: Path, experts: tuple[str, ...] = ("depth",), **options: Any) -> list[Any]:
    slots = {slot: dict(type="tiny_depth", tiny=True) for slot in experts}
    settings = dict(
        seed=0,
        model=dict(type="ToVE", experts=slots),
        schedule=dict(lr=0.1),
        stages=[dict(type="Learns", name="one")],
        work_dir=str(folder),
    )
    return StagedRunner(Config(settings), **options).run()


@pytest.mark.parametrize("lost", ["rows.json", "model.pth", "images_seen.txt"])
def test_a_finished_stage_that_lacks_a_file_is_not_kept(lost: str, tmp_path: Path):
    run(tmp_path)
    (tmp_path / "one" / lost).unlink()
    with pytest.raises(CheckpointError, match=rf"'one' has finished, .*{lost} is gone.*done\.json"):
        run(tmp_path, resume=True)
    (tmp_path / "one/done.json").unlink()  # as the message says
    assert run(tmp_path, resume=True)[0]["steps"] == 4
    assert (tmp_path / "one" / lost).exists()


@pytest.mark.parametrize("changed", ["rows.json", "model.pth", "images_seen.txt"])
def test_a_finished_stage_with_a_changed_file_is_not_kept(changed: str, tmp_path: Path):
    run(tmp_path)
    path = tmp_path / "one" / changed
    content = path.read_bytes()
    path.write_bytes(content[:3] + bytes([content[3] ^ 1]) + content[4:])
    with pytest.raises(CheckpointError, match=rf"{changed} has changed"):
        run(tmp_path, resume=True)
    assert run(tmp_path)[0]["steps"] == 4  # begins again


def test_a_slim_checkpoint_may_be_deleted_and_not_be_damaged(tmp_path: Path):
    run(tmp_path)
    slim = tmp_path / "one/slim_0.pth"
    content = slim.read_bytes()
    slim.unlink()
    assert len(run(tmp_path, resume=True)) == 1
    # What its stage tells the user of is looked at as well; this one tells of nothing.
    slim.write_bytes(content)
    assert len(run(tmp_path, resume=True)) == 1


def test_a_stage_that_ended_with_other_settings_than_it_notes_is_not_kept(tmp_path: Path):
    run(tmp_path)
    path = tmp_path / "one/done.json"
    done = json.loads(path.read_text())
    path.write_text(json.dumps({**done, "fingerprint": "0" * 64}))
    with pytest.raises(CheckpointError, match=r"config\.json has changed"):
        run(tmp_path, resume=True)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"done\.json' is not what a run wrote there"):
        run(tmp_path, resume=True)


def test_a_folder_of_an_older_version_is_kept(tmp_path: Path):
    run(tmp_path)
    path = tmp_path / "one/done.json"
    done = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in done.items() if k != "digests"}))
    assert len(run(tmp_path, resume=True)) == 1
    (tmp_path / "one/rows.json").unlink()
    with pytest.raises(CheckpointError, match=r"rows\.json is gone"):
        run(tmp_path, resume=True)


def test_flipped_bits_of_a_checkpoint_are_noticed_or_harmless(tmp_path: Path):
    path = tmp_path / "x.pth"
    model = nn.Linear(3, 2)
    save_checkpoint(path, model, {"steps": 3})
    content = path.read_bytes()
    noticed = 0
    bits = range(5, 8 * len(content), 8 * len(content) // 80)
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            noticed += 1
            continue
        assert found["meta"] == {"steps": 3}
        assert torch.equal(found["state_dict"]["weight"], model.weight)
    assert noticed > len(bits) // 4  # the rest is padding and dates


POINTS = ("replace", "unlink", "rename")


def killed_at(point: int, work: Callable[[], object]) -> bool:
    """Do something in a process that ends before its n-th change of names; tell if it got there."""
    pid = os.fork()
    if not pid:
        seen = 0

        def watch(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == point:
                    os._exit(9)
                return real(*args, **kwargs)

            return call

        try:
            for name in POINTS:
                setattr(os, name, watch(getattr(os, name)))
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize("experts", [("depth",), ("depth", "dino")])
def test_killed_anywhere_in_a_second_run_no_stage_is_finished_without_row_and_model(
    experts: tuple[str, ...], tmp_path: Path
):
    finished, work = tmp_path / "finished", tmp_path / "work"
    run(finished)
    resume = len(experts) > 1
    expected = 8 if resume else 4  # what it had learned, and four steps more
    point = 0
    while True:
        point += 1
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(finished, work)
        if not killed_at(point, lambda: run(work, experts, resume=resume)):
            break
        stage = work / "one"
        if (stage / "done.json").exists():
            assert (stage / "rows.json").exists()
            assert read_checkpoint(stage / "model.pth")
        assert [row["steps"] for row in run(work, experts, resume=True)] == [expected]
        assert len(json.loads((work / "results.json").read_text())) == 1
    assert point > 15


def test_what_a_sharded_training_has_learned_is_put_together(tmp_path: Path):
    parts = [{"part of a sharded tensor": torch.ones(n, 2), "shape": [3, 2]} for n in (2, 1)]
    for name, part in zip(("iter_2.pth", "iter_2.shard_1"), parts, strict=True):
        checkpoint = {"state_dict": {"weight": part}, "meta": {"iter": 2}, "shards": 2}
        write_checkpoint(tmp_path / name, checkpoint)
    write_text(tmp_path / "last_checkpoint", "iter_2.pth")
    record = StageRecord(tmp_path, "one", {})
    record.set_aside()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier.pth"]
    earlier = read_checkpoint(tmp_path / "earlier.pth")
    assert torch.equal(earlier["state_dict"]["weight"], torch.ones(3, 2))
