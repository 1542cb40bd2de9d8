"""A disk that fills up midway: one sentence, and what was there before is still there."""

import errno
import io
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file
from torch import nn

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.clip.export import export_encoder
from tove.engine.checkpoint import read_checkpoint, save_checkpoint, write_checkpoint
from tove.engine.hooks import LossCurveHook
from tove.engine.pipeline import StagedRunner
from tove.errors import CheckpointError
from tove.registry import STAGES

WRITE_ALL = """
import resource, sys
from pathlib import Path
import torch
from torch import nn
from tove.engine.checkpoint import save_checkpoint, write_checkpoint
from tove.atomic_io import write_text
from tove.backbones.clip.encoder import TransformersCLIP
from tove.errors import CheckpointError
from tove.backbones.clip.export import export_encoder
clip, folder = sys.argv[1], Path(sys.argv[2])
encoder, model = TransformersCLIP(clip), nn.Linear(100, 100)
for limit in (0, 2_000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for write in (
        lambda: save_checkpoint(folder / "model.pth", model, {"new": True}),
        lambda: write_checkpoint(folder / "iter_1.pth", {"state_dict": model.state_dict()}),
        lambda: write_text(folder / "rows.json", "x" * 50_000),
        lambda: export_encoder(encoder, folder / "export"),
        lambda: export_encoder(encoder, folder / "export", ["open_clip"]),
    ):
        try:
            write()
        except CheckpointError as error:
            print(error)
"""


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_no_write_that_fails_midway_is_a_traceback_or_costs_the_last_one(
    miniature: Path, tmp_path: Path
):
    clip = str(miniature / "clip")
    save_checkpoint(tmp_path / "model.pth", nn.Linear(2, 2), {"new": False})
    export_encoder(TransformersCLIP(clip), tmp_path / "export")
    before = contents(tmp_path)
    command = [sys.executable, "-c", WRITE_ALL, clip, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = done.stdout.splitlines()
    assert len(told) == 15, told
    for line in told:
        assert "File too large" in line
        assert "what was there before is untouched. Free space, mend" in line
    assert contents(tmp_path) == before
    assert read_checkpoint(tmp_path / "model.pth")["meta"] == {"new": False}
    assert load_file(tmp_path / "export/model.safetensors")


def test_a_failed_write_holds_no_view_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[io.BytesIO] = []

    def kept() -> io.BytesIO:
        made.append(io.BytesIO())
        return made[-1]

    monkeypatch.setattr("tove.engine.checkpoint.io", SimpleNamespace(BytesIO=kept))
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, most))
    try:
        with pytest.raises(CheckpointError, match="File too large") as raised:
            write_checkpoint(tmp_path / "iter_1.pth", {"state_dict": torch.zeros(9_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    made[0].truncate(0)  # a BufferError while there is a view
    assert raised.tb  # until here its frames are alive


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_loss_curve_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner: Any = SimpleNamespace(
        work_dir=str(tmp_path),
        iter=0,
        max_iters=1,
        world_size=1,
        optim_wrapper=SimpleNamespace(get_lr=lambda: {"lr": [0.1]}),
        message_hub=SimpleNamespace(update_scalar=lambda name, value: None),
    )
    hook = LossCurveHook()
    hook.before_train(runner)
    monkeypatch.setattr(Path, "open", no_space)
    with pytest.raises(CheckpointError, match=r"loss\.jsonl failed \(No space left"):
        hook.after_train_iter(runner, 0, outputs={"loss": torch.tensor(1.0)})


class Logs:
    """A stage whose log cannot be written, as mmengine's or TensorBoard's."""

    depends_on = ()
    repeats = False

    def __init__(self, name: str, code: int) -> None:
        self.name, self.code = name, code

    def run(self, context: Any) -> None:
        raise OSError(self.code, "it is so")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_under_files_of_others_is_told(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(STAGES.module_dict, "Logs", Logs)
    stages = [dict(type="Logs", name="logs", code=code)]
    settings = dict(seed=0, model=dict(type="PlainCLIP"), stages=stages, work_dir=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"Writing .*logs failed \(it is so\)"):
        StagedRunner(Config(settings)).run()
    stages[0]["code"] = errno.ENOENT  # a file that a stage reads
    with pytest.raises(FileNotFoundError):
        StagedRunner(Config(settings)).run()
