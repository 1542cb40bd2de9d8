"""MoVE-KD's two stages with a chat model in miniature: killed, resumed, exported, folded."""

import json
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
import torch
from mmengine.config import Config
from transformers import AutoModel, LlavaForConditionalGeneration

import tove
from tests.integration.conftest import REPOSITORY, tool_environment
from tests.integration.test_talking import talking_settings
from tove.backbones.vit import tower_of
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.slow

MOLE = dict(num_experts=3, rank=4, dropout=0.05)
EVERYTHING = ["projector", "adapters", "encoder.model.vision_model.*.layers.0.*", "language.lm"]


def two_stages(root: Path, chat: Path) -> dict[str, Any]:
    """MoVE-KD of v1.0 in miniature: projector, MoLE and adapters first, then all but teachers."""
    settings = talking_settings(root, chat)
    settings["model"] = dict(
        type="MoVEKD",
        encoder=settings["model"]["encoder"],
        experts=dict(
            dino=dict(type="tiny_dino", tiny=True),
            depth=dict(type="tiny_depth", tiny=True),
        ),
        language=dict(type="ChatLanguageModel", pretrained=str(chat), max_tokens=400),
        mole=MOLE,
        generation=dict(max_new_tokens=6),
    )
    settings["unlabelled_dataloader"] = dict(
        num_workers=0,
        sampler=dict(type="InfiniteSampler"),
        dataset=dict(type="UnlabelledImages", img_dir="images"),
    )
    settings["merging"] = dict(model=dict(type="Merge"), schedule=dict(steps=20, lr=3e-3))
    align, tune, *_ = settings["stages"]
    del align["trains"]
    tune["model"]["switches"] = dict(padding="masked")
    settings["stages"] = [
        align,
        {**tune, "trains": EVERYTHING},
        dict(type="ExportStage", name="student", source="tune"),
        dict(type="MergeStage", name="merge", source="tune"),
        dict(type="ExportStage", name="merged", source="merge"),
    ]
    return settings


def run_here(settings: dict[str, Any], work: Path, resume: bool = False) -> list[dict[str, Any]]:
    cfg = Config(deepcopy(settings) | {"work_dir": str(work)})
    check_config(cfg)
    return StagedRunner(cfg, resume=resume).run()


def curve(work: Path, stage: str) -> list[dict[str, float]]:
    path = work / stage / "loss.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def settings(miniature: Path, chat_folder: Path) -> dict[str, Any]:
    return two_stages(miniature / "move_kd", chat_folder)


@pytest.fixture(scope="module")
def finished(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    work = tmp_path_factory.mktemp("move_kd") / "work"
    run_here(settings, work)
    return work


def state(work: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(work / name / "model.pth", weights_only=False)["state_dict"]


def test_stage_one_trains_what_is_new_and_stage_two_all_but_the_teachers(finished: Path):
    first, second = state(finished, "align"), state(finished, "tune")
    roots = {".".join(name.split(".")[:1]) for name in first}
    assert roots == {"encoder", "projector", "adapters"}
    assert all(".mlp." in name for name in first if name.startswith("encoder"))
    embedding = next(name for name in second if name.endswith("embed_tokens.weight"))
    assert {embedding, "encoder.model.vision_model.encoder.layers.0.mlp.ffn.fc1.weight"} <= (
        second.keys() - first.keys()
    )
    assert not [name for name in second if name.startswith(("clip.", "hub."))]
    for stage in ("align", "tune"):
        steps = curve(finished, stage)
        assert len(steps) == 4
        assert {"loss_lm", "loss_kd", "loss_balance", "variance/dino"} <= steps[0].keys()
    text_alone = [line["loss_kd"] == 0 for line in curve(finished, "tune")]
    assert not all(text_alone)


def test_the_student_with_mole_is_a_folder_of_its_own_and_the_merge_folds_it(finished: Path):
    rows = {row["name"]: row for row in json.loads((finished / "results.json").read_text())}
    assert rows["student"]["metrics"] == rows["tune"]["metrics"]
    student = AutoModel.from_pretrained(finished / "student/export")
    assert type(student).__name__ == "MoLECLIPVisionModel"
    assert not (finished / "student/export-llava").exists()  # no stock Llava holds it

    losses = [line["loss_merge"] for line in curve(finished, "merge")]
    assert rows["merged"]["merge_loss"] == pytest.approx(sum(losses[-2:]) / 2)
    assert "merge_loss" not in rows["student"]
    LlavaForConditionalGeneration.from_pretrained(finished / "merged/export-llava")
    card = (finished / "merged/export-llava/README.md").read_text()
    assert "dino" in card  # a teacher, with its terms
    model = tove.load(finished, stage="student")
    image = next(Path(Config.fromfile(finished / "config.py").data_root).rglob("07.png"))
    assert isinstance(model.chat(image, "What colour is it?"), str)


def interrupted(finished: Path, work: Path) -> Path:
    """Copy a run as a crash in its second stage's third step would have left it."""
    shutil.copytree(finished, work)
    for name in ("student", "merge", "merged"):
        shutil.rmtree(work / name)
    for name in ("done.json", "rows.json", "model.pth", "iter_4.pth"):
        (work / "tune" / name).unlink()
    (work / "tune/last_checkpoint").write_text("iter_2.pth")
    return work


def test_an_interrupted_second_stage_goes_on_with_the_same_losses_and_teachers(
    settings: dict[str, Any], finished: Path, tmp_path: Path
):
    work = interrupted(finished, tmp_path / "work")
    short = {**settings, "stages": settings["stages"][:2]}
    swapped = deepcopy(short)
    swapped["model"]["experts"]["dino"]["type"] = "tiny_segmentation"
    before = (work / "tune/iter_2.pth").read_bytes()
    with pytest.raises(ConfigError, match=r"other settings \(.*experts\.dino\.type.*--work-dir"):
        run_here(swapped, work, resume=True)
    fewer = deepcopy(short)
    del fewer["model"]["experts"]["depth"]
    with pytest.raises(ConfigError, match=r"other settings"):
        run_here(fewer, work, resume=True)
    assert (work / "tune/iter_2.pth").read_bytes() == before  # nothing is thrown away

    run_here(short, work, resume=True)
    assert curve(work, "tune") == curve(finished, "tune")


def test_other_weights_of_a_teacher_are_refused_on_resume(
    settings: dict[str, Any], finished: Path, tmp_path: Path
):
    work = interrupted(finished, tmp_path / "work")
    path = work / "tune/iter_2.pth"
    checkpoint = torch.load(path, weights_only=False)
    assert set(checkpoint["meta"]["experts"]) == {"dino", "depth"}  # the manifest
    checkpoint["meta"]["experts"]["dino"]["sha256"] = "0" * 64
    torch.save(checkpoint, path)
    with pytest.raises(CheckpointError, match=r"Slot 'dino' does not hold .* weights"):
        run_here({**settings, "stages": settings["stages"][:2]}, work, resume=True)


def kill_in(stage: str, work: Path, command: list[str]) -> None:
    """Start a run and end it by SIGKILL once the stage's eighth step is written."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=tool_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while len(curve(work, stage)) < 8:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(curve(work, stage)) < 40, "killed too late to test anything"


@pytest.mark.heavy
def test_killed_in_each_stage_and_resumed_gives_the_losses_of_an_uninterrupted_run(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    long = deepcopy(settings)
    long["stages"] = long["stages"][:2]
    long["schedule"].update(steps=40, checkpoint_interval=5)
    config, broken = write_config(long), tmp_path / "broken"
    run_here(Config.fromfile(config).to_dict(), tmp_path / "whole")  # a dump sorts the teachers
    command = ["tools/train.py", str(config), "--work-dir", str(broken), "--resume"]
    for stage in ("align", "tune"):
        kill_in(stage, broken, command)
    done = launch(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "align: finished earlier, kept" in done.stdout
    for stage in ("align", "tune"):
        assert curve(broken, stage) == curve(tmp_path / "whole", stage)
        assert len(curve(broken, stage)) == 40


def test_a_student_without_mole_is_a_stock_clip_and_a_llava_folder(
    settings: dict[str, Any], tmp_path: Path
):
    plain = deepcopy(settings)
    plain["model"].update(mole=None, student="full")
    plain["stages"] = [
        {**plain["stages"][1], "source": None, "trains": None, "model": {}},
        dict(type="ExportStage", name="student", source="tune"),
    ]
    plain["schedule"]["steps"] = 2
    rows = run_here(plain, tmp_path)
    folder = tmp_path / "student/export-llava"
    stock = LlavaForConditionalGeneration.from_pretrained(folder)
    weight = "encoder.model.vision_model.encoder.layers.0.mlp.fc1.weight"
    trained = state(tmp_path, "tune")[weight]
    tower = stock.model.vision_tower
    own = tower_of(tower).encoder.layers[0].mlp.fc1.weight
    assert torch.equal(own, trained)
    assert rows[0]["metrics"] == rows[1]["metrics"]
