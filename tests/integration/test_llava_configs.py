"""LLaVA-NeXT's configs in miniature, both stages, over an encoder that experts have taught."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

import tove
from tests.integration.conftest import REPOSITORY, tool_environment
from tests.integration.test_talking import write_talks
from tove.backbones.clip.encoder import TransformersCLIP
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config

pytestmark = pytest.mark.slow

DINO = dict(slot="dino", expert="tiny_dino", licence="Apache-2.0", commercial_use=True)
STEPS = 30


@pytest.fixture(scope="module")
def configs(
    miniature: Path, chat_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Configs that lie over the repository's and make them small, by stage."""
    root = tmp_path_factory.mktemp("next")
    write_talks(root / "data")
    taught = TransformersCLIP(str(miniature / "clip"))
    taught.teachers = [DINO]
    taught.export(root / "export", ["transformers"])
    made = {}
    for stage, file in (("pretrain", "captions"), ("finetune", "talks")):
        data: dict[str, Any] = dict(ann_file=f"{file}.json", img_dir="images")
        loader = dict(num_workers=0, persistent_workers=False, dataset=data)
        settings = dict(
            _base_=[str(REPOSITORY / f"configs/llava/llava-next-vicuna-7b_{stage}.py")],
            data_root=str(root / "data"),
            image_size=32,
            batch_size=3,
            model=dict(
                encoder=dict(pretrained=str(root / "export")),
                language=dict(pretrained=str(chat_folder), max_tokens=400),
                generation=dict(max_new_tokens=6),
            ),
            train_dataloader=loader,
            test_dataloader=loader,
            schedule=dict(steps=STEPS, lr=1e-2, warmup=1, checkpoint_interval=5),
        )
        made[stage] = root / f"{stage}.py"
        made[stage].write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))
    return made


def run_here(config: Path, work: Path) -> list[dict[str, Any]]:
    cfg = Config.fromfile(config)
    cfg.work_dir = str(work)
    check_config(cfg)
    return StagedRunner(cfg).run()


@pytest.fixture(scope="module")
def run(configs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder."""
    work = tmp_path_factory.mktemp("next_run") / "work"
    for config in configs.values():
        run_here(config, work)
    return work


def curve(folder: Path) -> list[dict[str, float]]:
    path = folder / "loss.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_clip_and_newline_learn_in_the_second_stage_clip_at_a_tenth_of_the_rate(
    run: Path, configs: dict[str, Path]
):
    first, second = (
        torch.load(run / name / "model.pth", weights_only=False)["state_dict"]
        for name in ("pretrain", "finetune")
    )
    source = TransformersCLIP(Config.fromfile(configs["finetune"]).model.encoder.pretrained)
    before = {f"encoder.{name}": p for name, p in source.named_parameters()} | first
    moved = {n: (t - before[n]).abs().max().item() for n, t in second.items() if n in before}
    layers = "encoder.model.vision_model.encoder.layers"
    assert 0 < moved[f"{layers}.0.mlp.fc1.weight"] < 0.2 * moved["projector.shared.weight"]
    assert moved["language.newline_D"] > 0
    assert not any(name.startswith(f"{layers}.1.") for name in second)  # above the tokens


def test_the_folder_is_a_stock_llava_next_that_answers_as_we_do_and_names_the_teacher(
    run: Path, configs: dict[str, Path]
):
    photo = Path(Config.fromfile(configs["finetune"]).data_root) / "images/07.png"
    ours = tove.load(run, stage="export").chat(photo, "What colour is it?")
    folder = run / "export/export-llava"
    processor = AutoProcessor.from_pretrained(folder)
    stock = LlavaNextForConditionalGeneration.from_pretrained(folder).eval()
    content = [{"type": "image"}, {"type": "text", "text": "What colour is it?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=Image.open(photo), text=text, return_tensors="pt")
    assert inputs["pixel_values"].shape[1] > 1  # tiles
    with torch.no_grad():
        ids = stock.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(ids, skip_special_tokens=True).strip() == ours
    assert "tiny_dino" in (folder / "README.md").read_text()


def test_its_table_has_a_column_for_what_is_measured(run: Path, configs: dict[str, Path]):
    rows = json.loads((run / "results.json").read_text())
    assert set(Config.fromfile(configs["finetune"]).table_metrics) <= rows[-1]["metrics"].keys()


def kill_in(stage: Path, command: list[str]) -> None:
    """Start a training and end it by SIGKILL once its eighth step is written."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=tool_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while len(curve(stage)) < 8:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(curve(stage)) < STEPS, "killed too late to test anything"


@pytest.mark.heavy
def test_killed_in_each_stage_and_resumed_they_give_the_same_losses(
    run: Path, configs: dict[str, Path], launch: Callable, tmp_path: Path
):
    work = tmp_path / "work"
    for stage, config in configs.items():
        command = ["tools/train.py", str(config), "--work-dir", str(work)]
        kill_in(work / stage, command)
        done = launch(*command, "--resume")
        assert done.returncode == 0, done.stderr[-3000:]
        assert curve(work / stage) == curve(run / stage)
        assert len(curve(work / stage)) == STEPS
