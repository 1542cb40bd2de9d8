"""What the numbers of a run are: of which images and encoder, and held against what."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionModel

from tove import cli
from tove.backbones.clip.encoder import TransformersCLIP

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
METRICS = ("vsr/accuracy", "caption/CIDEr")
Train = Callable[..., int]


@pytest.fixture
def train(write_config: Callable, tmp_path: Path) -> Train:
    """Run a config in this process, as `tools/train.py` does, and give its exit status."""
    parse = runpy.run_path(str(REPOSITORY / "tools/train.py"))["parse_args"]

    def run(settings: dict[str, Any], name: str = "work", *arguments: object) -> int:
        config = write_config(settings, f"{name}.py")
        given = [config, "--work-dir", tmp_path / name, *arguments]
        return cli.train(parse([str(part) for part in given]))

    return run


def only(settings: dict[str, Any], *stages: str) -> dict[str, Any]:
    settings["stages"] = [stage for stage in settings["stages"] if stage["name"] in stages]
    return settings


def test_a_gain_is_the_row_s_score_less_the_baseline_s(
    settings: dict[str, Any], train: Train, tmp_path: Path
):
    stages = {stage["name"]: stage for stage in only(settings, "baseline", "transfer")["stages"]}
    stages["baseline"]["schedule"] = dict(steps=0, warmup=0)
    stages["transfer"]["schedule"] = dict(steps=12, lr=0.05)
    assert train(settings) == 0
    baseline, tove = json.loads((tmp_path / "work/results.json").read_text())
    assert baseline["gain"] == {}
    assert tove["gain"]["over"] == "baseline"
    differences = []
    for metric in METRICS:
        gain = tove["gain"][metric]
        difference = tove["metrics"][metric]["value"] - baseline["metrics"][metric]["value"]
        assert gain["value"] == pytest.approx(difference, abs=1e-9)
        assert gain["low"] <= gain["value"] <= gain["high"]
        differences.append(abs(difference))
    assert max(differences) > 0.01  # or the test would say nothing


def test_rows_count_the_images_and_steps_that_taught_them(finished_run: dict[str, Any]):
    rows = json.loads((finished_run["work"] / "results.json").read_text())
    by_name = {row["name"]: row for row in rows}
    listed = (finished_run["work"] / "transfer/images_seen.txt").read_text().split()
    seen = {Path(path).name for path in listed}
    assert seen == {f"train_{index:03d}.png" for index in range(12)}
    for name in ("plain_clip", "baseline", "tove"):
        assert (by_name[name]["training_images"], by_name[name]["steps"]) == (12, 6)


def test_another_seed_sees_other_images(settings: dict[str, Any], train: Train, tmp_path: Path):
    settings["schedule"].update(steps=1, warmup=0)
    seen = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        assert train(only({**settings, "seed": seed}, "plain_clip"), name) == 0
        seen.append((tmp_path / name / "plain_clip/images_seen.txt").read_text())
        settings["stages"] = [
            dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP"))
        ]
    assert seen[0] == seen[1] != seen[2]


def test_validation_in_training_is_of_the_validation_split(
    settings: dict[str, Any], train: Train, tmp_path: Path
):
    settings["schedule"].update(steps=2, warmup=0, val_interval=1)
    assert train(only(settings, "plain_clip")) == 0
    written = next((tmp_path / "work/plain_clip").rglob("scalars.json")).read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    counts = [line["vsr/num_statements"] for line in lines if "vsr/num_statements" in line]
    assert counts == [6, 6]  # the test split has eight


def test_the_merged_row_is_measured_with_the_merged_encoder(
    settings: dict[str, Any],
    train: Train,
    miniature: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The original's tokens of the same images are in memory; they are another encoder's."""
    forward, seen = TransformersCLIP.forward, {}

    def watched(encoder: TransformersCLIP, images: torch.Tensor) -> torch.Tensor:
        of = seen.setdefault(str(encoder.source), set())
        of |= {image.detach().numpy().tobytes() for image in images}
        return forward(encoder, images)

    monkeypatch.setattr(TransformersCLIP, "forward", watched)
    assert train(only(settings, "transfer", "merge", "merged")) == 0
    original, merged = seen[str(miniature / "clip")], seen[str(tmp_path / "work/export")]
    rows = json.loads((tmp_path / "work/results.json").read_text())
    assert rows[-1]["name"] == "merged"
    # Both measured what they cost on drawn images; what they share are the eight of the test split.
    assert len(original & merged) >= 8


def test_a_checkpoint_in_front_of_another_encoder_is_no_start(
    settings: dict[str, Any],
    finished_run: dict[str, Any],
    miniature: Path,
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    other = tmp_path / "clip"
    shutil.copytree(miniature / "clip", other)
    encoder = CLIPVisionModel.from_pretrained(other)
    encoder.vision_model.post_layernorm.bias.data += 0.1
    encoder.vision_model.encoder.layers[0].mlp.fc1.bias.data += 0.1
    encoder.save_pretrained(other)
    settings["model"]["encoder"]["pretrained"] = str(other)
    checkpoint = finished_run["work"] / "transfer/model.pth"
    start = ("--stage", "transfer", "--checkpoint", checkpoint)
    assert train(settings, "work", *start) == 2
    assert "was trained with another encoder" in capsys.readouterr().err
    assert not (tmp_path / "work/transfer/loss.jsonl").exists()
