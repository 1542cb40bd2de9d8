"""LLaVA's two stages in miniature: trained, measured, exported, asked, ended by a signal."""

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
from PIL import Image, ImageDraw

import tove
from tests.integration.conftest import REPOSITORY, tool_environment

pytestmark = pytest.mark.slow

SIZE = 32


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def write_talks(root: Path) -> None:
    """Squares of two colours: captions to align by, questions of one and two turns, some words."""
    (root / "images").mkdir(parents=True)
    captions, talks = [], []
    for index in range(12):
        colour, name = ("red", "blue")[index % 2], f"{index:02d}.png"
        image = Image.new("RGB", (48, 32), (index * 9, 90, 90))
        ImageDraw.Draw(image).rectangle((4 + index, 8, 16 + index, 20), fill=colour)
        image.save(root / "images" / name)
        about = {"id": index, "image": name}
        captions.append(about | {"conversations": turns("<image>\nWhat is it?", f"a {colour} mat")})
        asked = turns(
            "<image>\nHow many mats are there?", "One", "What colour?", f"It is {colour}."
        )
        talks.append(about | {"conversations": asked, "relation": "colour"})
    words = [{"id": f"w{i}", "conversations": turns("Is 2 three?", "no")} for i in range(6)]
    both = {"id": "two", "image": ["00.png", "01.png"], "relation": "count"}
    talks.append(both | {"conversations": turns("<image><image>\nHow many images?", "two")})
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "talks.json").write_text(json.dumps(talks + words))


def loader(file: str, train: bool, **dataset: Any) -> dict[str, Any]:
    sampler = dict(type="ModalityLengthSampler") if train else dict(type="DefaultSampler")
    data = dict(type="LlavaConversations", ann_file=file, test_mode=not train, **dataset)
    return dict(num_workers=0, sampler=sampler, dataset=data)


def talking_settings(root: Path, chat: Path) -> dict[str, Any]:
    """ToVE as a prefix: the projector alone, then all that a method trains and LoRA."""
    write_talks(root / "data")
    return dict(
        default_scope="tove",
        seed=0,
        image_size=SIZE,
        batch_size=3,
        data_root=str(root / "data"),
        model=dict(
            type="ToVE",
            encoder=dict(type="TransformersCLIP", pretrained=str(root.parent / "clip"), layer=-2),
            experts=dict(dino=dict(type="tiny_dino", tiny=True)),
            language=dict(
                type="ChatLanguageModel",
                pretrained=str(chat),
                tuning="lora",
                lora=dict(r=4, target_modules=["q_proj", "v_proj"]),
                max_tokens=400,
            ),
            merging=dict(weight=1.0),
            generation=dict(max_new_tokens=6),
        ),
        captions_dataloader=loader("captions.json", True),
        train_dataloader=loader("talks.json", True, view="pad"),
        test_dataloader=loader("talks.json", False, view="pad"),
        aligned_dataloader=loader("captions.json", False),
        test_evaluator=[dict(type="ConversationAccuracy", match="contains")],
        schedule=dict(steps=4, lr=1e-2, warmup=1, checkpoint_interval=2, log_interval=2),
        stages=[
            dict(
                type="TrainStage",
                name="align",
                model=dict(language=dict(chat="plain")),
                trains="projector",
                data=dict(train="captions_dataloader", test="aligned_dataloader"),
            ),
            dict(
                type="TrainStage",
                name="tune",
                source="align",
                model=dict(language=dict(chat="v1")),
            ),
            dict(type="ExportStage", name="merged", source="tune"),
            dict(type="ReportStage", name="report", num_images=4, num_maps=2, num_examples=30),
        ],
    )


@pytest.fixture(scope="module")
def talking(miniature: Path, chat_folder: Path) -> dict[str, Any]:
    return talking_settings(miniature / "talking", chat_folder)


@pytest.fixture(scope="module")
def run(
    talking: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, launch: Callable
) -> Path:
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("talking")
    Config(talking).dump(folder / "talk.py")
    result = launch("tools/train.py", folder / "talk.py", "--work-dir", folder / "work")
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "work"


def state(run: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(run / name / "model.pth", weights_only=False)["state_dict"]


def test_stage_one_trains_the_projector_and_stage_two_goes_on_from_it(run: Path):
    first, second = state(run, "align"), state(run, "tune")
    lora = [name for name in first if "lora_B" in name]
    assert lora
    assert not any(first[name].any() for name in lora)  # as they began
    assert all(second[name].any() for name in lora)
    steps = [json.loads(line) for line in (run / "tune/loss.jsonl").read_text().splitlines()]
    assert {"loss_lm", "loss_balance", "loss_merge"} <= steps[0].keys()
    rows = json.loads((run / "results.json").read_text())
    tuned = next(row for row in rows if row["name"] == "tune")
    assert tuned["metrics"]["chat/accuracy"].keys() == {"value", "low", "high", "n"}
    assert tuned["metrics"]["chat/accuracy"]["n"] == 19
    assert {"chat/relation/colour", "chat/relation/count"} <= tuned["metrics"].keys()
    assert rows[-1]["name"] == "merged"
    assert rows[-1]["training_images"] == 12


def test_the_report_shows_answers_by_kind_and_with_and_without_an_image(run: Path):
    page = (run / "report.html").read_text()
    cards = page.split('<div class="card">')[1:]
    assert len(cards) == 19
    first = "How many mats are there? One What colour?"
    assert sum(first in card and "right answer: It is red." in card for card in cards) == 6
    assert sum('alt="test image"' in card for card in cards) == 13  # six are words alone
    assert all(card.count("<dt>") == 2 for card in cards)  # ToVE's answer and the merged encoder's
    assert all(name in page for name in ("answer accuracy", "<td>colour", "<td>count", "gate maps"))


def test_the_exported_folder_answers_as_our_own_evaluation_did(
    run: Path, talking: dict[str, Any], launch: Callable
):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    photo = Path(talking["data_root"]) / "images/07.png"
    ours = tove.load(run, stage="merged").chat(photo, "What colour is it?")
    folder = run / "merged/export-llava"
    processor = AutoProcessor.from_pretrained(folder)
    stock = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    content = [{"type": "image"}, {"type": "text", "text": "What colour is it?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=Image.open(photo), text=text, return_tensors="pt")
    with torch.no_grad():
        ids = stock.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(ids, skip_special_tokens=True).strip() == ours
    assert "dino" in (folder / "README.md").read_text()  # a teacher, with its terms

    asked = ["What colour is it?", "And how many?"]
    told = [
        json.loads(launch("tools/chat.py", source, photo, *asked, *more, "--json").stdout)
        for source, more in ((run, ["--stage", "merged"]), (folder, []))
    ]
    ours_twice, stocks_twice = ([entry["answer"] for entry in entries] for entries in told)
    assert len(ours_twice) == 2
    assert ours_twice[0] == ours
    # Stock answers on for 128 tokens where our config stops at six.
    assert all(b.startswith(a) for a, b in zip(ours_twice[:1], stocks_twice[:1], strict=True))


def curve(work: Path) -> list[dict[str, float]]:
    path = work / "tune/loss.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_signal_saves_and_ends_a_training_that_goes_on_with_the_same_losses(
    talking: dict[str, Any], launch: Callable, tmp_path: Path
):
    steps = 30
    schedule = {**talking["schedule"], "steps": steps, "checkpoint_interval": 1000}
    stage = {**talking["stages"][1], "source": None}
    Config({**talking, "schedule": schedule, "stages": [stage]}).dump(tmp_path / "long.py")
    command = ["tools/train.py", tmp_path / "long.py", "--work-dir", tmp_path / "work"]
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=REPOSITORY,
        env=tool_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while len(curve(tmp_path / "work")) < 4:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    told = errors.splitlines()[-1]
    done = len(curve(tmp_path / "work"))
    assert done < steps
    assert told == (
        f"SIGTERM: the training of stage 'tune' has ended after step {done} of {steps} and is "
        "saved; run the same command with --resume to go on."
    )
    assert launch(*command, "--resume").returncode == 0
    assert launch(*command[:-1], tmp_path / "whole").returncode == 0
    assert curve(tmp_path / "work") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "work")) == steps
