"""A chat model in two sharded processes, of which one never has an image: the losses of one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

import tove
from tests.integration.test_distributed import HALVES, TWO
from tests.integration.test_talking import turns, write_talks
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config

pytestmark = pytest.mark.slow


def settings_of(root: Path, clip: Path, chat: Path) -> dict[str, Any]:
    """The projector alone, then all there is; every second sample has no image."""
    write_talks(root)
    seen = json.loads((root / "captions.json").read_text())
    words = [{"id": f"w{i}", "conversations": turns("Is 2 three?", "no")} for i in range(len(seen))]
    mixed = [record for pair in zip(seen, words, strict=True) for record in pair]
    (root / "mixed.json").write_text(json.dumps(mixed))
    data = dict(type="LlavaConversations", ann_file="mixed.json", view="pad")
    return dict(
        default_scope="tove",
        seed=0,
        image_size=32,
        batch_size=2,
        data_root=str(root),
        model=dict(
            type="PlainCLIP",
            encoder=dict(type="TransformersCLIP", pretrained=str(clip), layer=-2),
            language=dict(type="ChatLanguageModel", pretrained=str(chat), max_tokens=400),
            generation=dict(max_new_tokens=6),
        ),
        train_dataloader=dict(
            num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=False), dataset=data
        ),
        test_dataloader=dict(
            num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset=data
        ),
        test_evaluator=[dict(type="ConversationAccuracy", match="contains")],
        schedule=dict(steps=4, lr=3e-3, warmup=1, checkpoint_interval=2, log_interval=2),
        stages=[
            dict(type="TrainStage", name="align", trains="projector"),
            dict(
                type="TrainStage",
                name="tune",
                source="align",
                trains=["projector", "language", "encoder"],
            ),
        ],
    )


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]


def test_two_sharded_processes_talk_as_one_and_what_they_leave_loads_in_one(
    miniature: Path, chat_folder: Path, launch: Callable, tmp_path: Path
):
    settings = settings_of(tmp_path / "data", miniature / "clip", chat_folder)
    cfg = Config(settings | {"work_dir": str(tmp_path / "one")})
    check_config(cfg)
    StagedRunner(cfg).run()
    settings["model_wrapper_cfg"] = dict(type="FullyShard", min_parameters=1000)
    Config(settings).dump(tmp_path / "sharded.py")
    command = (*TWO, tmp_path / "sharded.py", "--work-dir", tmp_path / "two", *HALVES)
    two = launch(*command, timeout=600)
    assert two.returncode == 0, two.stderr[-3000:]
    for stage in ("align", "tune"):
        single, double = (curve(tmp_path / name / stage) for name in ("one", "two"))
        assert len(single) == 4
        for ours, theirs in zip(single, double, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6)
    one, other = (tove.load(tmp_path / name, stage="tune") for name in ("one", "two"))
    photo = tmp_path / "data/images/07.png"
    assert other.chat(photo, "What is it?") == one.chat(photo, "What is it?")
