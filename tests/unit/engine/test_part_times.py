"""A training whose steps are measured: what is told, and that nothing else changes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from tove.config.data_sets import fill_in
from tove.engine.part_times import PartTimesHook
from tove.engine.pipeline import StagedRunner

Lines = list[dict[str, Any]]


def trained(settings: dict[str, Any], work_dir: Path, **hook: Any) -> Path:
    """Train ToVE for six steps, hook and all, write the report, and return its folder."""
    settings["stages"] = [
        dict(type="TrainStage", name="transfer", row="tove"),
        dict(type="ReportStage", name="report", num_images=2, num_maps=1, num_examples=1),
    ]
    if hook:
        settings["custom_hooks"] = [dict(type="PartTimesHook", **hook)]
    cfg = Config({**settings, "work_dir": str(work_dir)})
    fill_in(cfg)
    StagedRunner(cfg).run()
    return work_dir


def lines_of(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def measured(make_settings, tmp_path_factory) -> Path:
    settings = make_settings()
    settings["model"]["token_cache"] = None  # so that every expert runs at each step
    folder = tmp_path_factory.mktemp("measured") / "work"
    return trained(settings, folder, interval=2, peak_tflops=0.001)


def test_every_second_step_is_told_by_part(measured: Path):
    lines = lines_of(measured / "transfer/part_times.jsonl")
    # The first one counts operations, which takes time.
    assert [line["iter"] for line in lines] == [4, 6]
    for line in lines:
        parts = line["parts"]
        assert {"encoder", "language", "experts.depth", "experts.dino"} <= parts.keys()
        assert all(ms > 0 for ms in parts.values())
        assert sum(parts.values()) < line["step_ms"]
        assert line["data_ms"] > 0
        assert line["peak_memory_mb"] > 100
        assert 0 < line["mfu"]
    flops = {round(line["mfu"] * line["step_ms"] * 1e-3 * 1e9) for line in lines}
    assert len(flops) == 1, "a step's operations are counted once"


def test_tokens_are_those_that_the_language_model_read(measured: Path):
    for line in lines_of(measured / "transfer/part_times.jsonl"):
        tokens = line["tokens_per_s"] * line["step_ms"] * 1e-3
        assert tokens == pytest.approx(round(tokens))
        assert round(tokens) in range(4, 4 * 64, 4), "a batch of four, padded"


def test_they_are_in_the_log_in_tensorboard_s_file_and_in_the_report(measured: Path):
    log = next(measured.glob("transfer/*/*.log")).read_text()
    assert "step 4:" in log
    line = lines_of(measured / "transfer/part_times.jsonl")[0]
    shown = log.partition("step 4: ")[2].split("\n")[0]
    assert shown.startswith(
        f"{line['step_ms']:.1f} ms after {line['data_ms']:.1f} ms of waiting for data, "
        f"{line['tokens_per_s']:,.0f} tokens read a second, {line['peak_memory_mb']:,.0f} MB at "
        f"the peak, MFU {100 * line['mfu']:.1f} %; "
    )
    told = dict(re.findall(r"([\w.]+) [\d.]+ \((\d+) %\)", shown))
    assert told.keys() == line["parts"].keys()
    for part, ms in line["parts"].items():
        assert int(told[part]) == pytest.approx(100 * ms / line["step_ms"], abs=0.5)
    scalars = next(measured.glob("transfer/*/vis_data/scalars.json")).read_text()
    assert "parts/forward_ms/experts.depth" in scalars
    html = (measured / "report.html").read_text()
    assert "What a training step takes" in html
    assert "backward pass, optimiser, in between" in html


def test_losses_are_those_of_a_training_that_nobody_measures(
    measured: Path, settings: dict[str, Any], tmp_path: Path
):
    settings["model"]["token_cache"] = None
    alone = trained(settings, tmp_path / "alone")
    losses = (alone / "transfer/loss.jsonl").read_text()
    assert losses == (measured / "transfer/loss.jsonl").read_text()
    assert not (alone / "transfer/part_times.jsonl").exists()


@pytest.mark.parametrize(("card", "peak"), [("NVIDIA A100-SXM4-80GB", 312.0), ("T4", None)])
def test_a_card_s_peak_is_known_by_its_name(
    card: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: card)
    assert PartTimesHook()._peak(torch.device("cuda")) == peak
    assert PartTimesHook(peak_tflops=7.0)._peak(torch.device("cuda")) == 7.0
    assert PartTimesHook()._peak(torch.device("cpu")) is None
