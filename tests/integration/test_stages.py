"""A whole run: what it leaves, what a second call keeps, what its checkpoints are good for."""

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file
from transformers import BertLMHeadModel, CLIPVisionModel

from tove.engine.checkpoint import read_checkpoint
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.methods.vision_language_model import VisionLanguageModel

pytestmark = pytest.mark.slow

KEYS = {
    "model",
    "role",
    "vision_tokens",
    "gain",
    "name",
    "experts",
    "metrics",
    "trainable_parameters",
    "total_parameters",
    "flops",
    "forward_ms",
    "peak_memory_mb",
    "cost",
    "training_images",
    "steps",
    "seed",
    "stage",
}


def rows_of(run: dict[str, Any]) -> dict[str, dict]:
    rows = json.loads((run["work"] / "results.json").read_text())
    return {row["name"]: row for row in rows}


def test_every_configuration_has_its_row(finished_run: dict[str, Any]):
    rows = rows_of(finished_run)
    order = [
        line["slot"]
        for line in json.loads((finished_run["work"] / "detach/ranking.json").read_text())
    ]
    assert list(rows) == ["plain_clip", "baseline", "tove", *(f"tove-{s}" for s in order), "merged"]
    for row in rows.values():
        assert row.keys() - {"retrieval", "merge_loss", "gate"} == KEYS
        accuracy = row["metrics"]["vsr/accuracy"]
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert accuracy["n"] == 8
        assert row["forward_ms"] > 0
    assert rows["tove"]["experts"] == ["depth", "dino"]
    assert [name for name, row in rows.items() if "gate" in row] == ["tove"]  # it has a choice
    assert rows["tove"]["gate"]["share"].keys() == {"depth", "dino"}
    assert [len(rows[f"tove-{slot}"]["experts"]) for slot in order] == [1, 0]
    assert (rows["merged"]["training_images"], rows["merged"]["steps"]) == (22, 10)


def test_an_expert_that_is_gone_costs_nothing(finished_run: dict[str, Any]):
    rows = rows_of(finished_run)
    totals = [row["total_parameters"] for row in rows.values() if row["name"].startswith("tove")]
    assert totals == sorted(totals, reverse=True)
    assert rows["merged"]["total_parameters"] == rows["plain_clip"]["total_parameters"]
    baseline, tove = rows["baseline"], rows["tove"]
    assert baseline["trainable_parameters"] == pytest.approx(tove["trainable_parameters"], rel=0.02)


def test_the_user_is_told_the_scores_and_the_files(finished_run: dict[str, Any]):
    output, work = finished_run["output"], finished_run["work"]
    for text in ("plain_clip", "tove-dino", "merged", "vsr/accuracy", f"{work}/results.json"):
        assert text in output
    assert f"{work}/export" in output
    assert output.count("slim checkpoint with no expert") == 1
    assert output.count("slim checkpoint with d") == 1  # depth or dino
    assert (work / "export" / "config.json").exists()


def test_a_finished_run_is_kept_and_a_changed_one_is_not_mixed_with_it(
    finished_run: dict[str, Any], launch: Callable
):
    arguments = ("tools/train.py", finished_run["config"], "--work-dir", finished_run["work"])
    before = (finished_run["work"] / "results.json").read_text()
    again = launch(*arguments, "--resume")
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("finished earlier, kept") == 6
    assert "export" in again.stdout
    assert (finished_run["work"] / "results.json").read_text() == before

    changed = launch(*arguments, "--resume", "--cfg-options", "model.balance_weight=0.5")
    assert changed.returncode == 2
    assert "model.balance_weight: None -> 0.5" in changed.stderr
    assert "Traceback" not in changed.stderr


def test_a_slim_checkpoint_is_evaluated_without_the_experts_it_lost(
    finished_run: dict[str, Any], launch: Callable, tmp_path: Path
):
    rows = rows_of(finished_run)
    slim = finished_run["work"] / "detach" / "slim_0.pth"
    state = read_checkpoint(slim)["state_dict"]
    assert not [name for name in state if "depth" in name or "dino" in name]
    result = launch(
        *("tools/test.py", finished_run["config"], slim, "--work-dir", tmp_path),
        TOVE_BLOCK_PLUGINS="builtin",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    row = json.loads((tmp_path / "test-test" / "rows.json").read_text())[0]
    last = list(rows.values())[-2]
    assert row["experts"] == []
    assert row["metrics"] == last["metrics"]

    needed = launch(
        *("tools/test.py", finished_run["config"], finished_run["work"] / "transfer/model.pth"),
        *("--work-dir", tmp_path),
        TOVE_BLOCK_PLUGINS="builtin",
    )
    assert needed.returncode == 2
    assert "tiny_depth" in needed.stderr
    assert "Traceback" not in needed.stderr


@pytest.mark.parametrize("stage", ["baseline", "transfer", "merge", "merged"])
def test_each_stage_s_checkpoint_scores_as_its_row(
    stage: str, finished_run: dict[str, Any], launch: Callable, tmp_path: Path
):
    checkpoint = finished_run["work"] / stage / "model.pth"
    result = launch(
        *("tools/test.py", finished_run["config"], "--checkpoint", checkpoint),
        *("--work-dir", tmp_path),
    )
    assert result.returncode == 0, result.stderr[-2000:]
    row = json.loads((tmp_path / "test-test" / "rows.json").read_text())[0]
    name = {"transfer": "tove", "merge": "merged"}.get(stage, stage)
    expected = rows_of(finished_run)[name]
    assert row["metrics"] == expected["metrics"]
    assert row["total_parameters"] == expected["total_parameters"]


def test_a_stage_runs_alone_from_an_earlier_one_s_checkpoint(
    finished_run: dict[str, Any], launch: Callable, tmp_path: Path
):
    checkpoint = finished_run["work"] / "transfer" / "model.pth"
    result = launch(
        *("tools/train.py", finished_run["config"], "--work-dir", tmp_path),
        *("--stage", "detach", "--checkpoint", checkpoint),
    )
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["stage"] for row in rows} == {"detach"}
    expected = rows_of(finished_run)
    for row in rows:
        assert row["metrics"] == expected[row["name"]]["metrics"]


def test_a_checkpoint_of_other_experts_is_refused(
    finished_run: dict[str, Any], launch: Callable, tmp_path: Path
):
    result = launch(
        *("tools/test.py", finished_run["config"], finished_run["work"] / "transfer/model.pth"),
        *("--work-dir", tmp_path, "--cfg-options", "model.experts.depth.type=tiny_detection"),
    )
    assert result.returncode == 2
    assert "it was 'tiny_depth' and is 'tiny_detection'" in result.stderr


def test_the_loss_curve_and_checkpoints_are_complete(finished_run: dict[str, Any]):
    folder = finished_run["work"] / "transfer"
    curve = [json.loads(line) for line in (folder / "loss.jsonl").read_text().splitlines()]
    assert [line["iter"] for line in curve] == [1, 2, 3, 4, 5, 6]
    assert all({"loss", "loss_lm", "loss_balance", "lr"} <= line.keys() for line in curve)
    meta = read_checkpoint(folder / "iter_6.pth")["meta"]
    assert meta["attached"] == ["depth", "dino"]
    assert meta["experts"]["depth"]["name"] == "tiny_depth"
    assert Config.fromstring(meta["cfg"], ".py").seed == 0


def test_the_frozen_weights_stay_out_of_checkpoints(finished_run: dict[str, Any]):
    checkpoint = read_checkpoint(finished_run["work"] / "transfer" / "model.pth")
    state = checkpoint["state_dict"]
    total = sum(tensor.numel() for name, tensor in state.items() if ".norm." not in name)
    assert total == rows_of(finished_run)["tove"]["trainable_parameters"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert all(
        state[f"hub.experts.{slot}.norm.shift"].any() for slot in checkpoint["meta"]["attached"]
    )


def _other_weights(folder: Path, kind: type, source: Path) -> str:
    """Write a model as another one's, of the same shape with other weights."""
    shutil.copytree(source, folder)
    model = kind.from_pretrained(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.heavy
@pytest.mark.parametrize(("part", "kind"), [("encoder", "clip"), ("language", "lm")])
def test_a_checkpoint_in_front_of_other_frozen_weights_is_refused(
    part: str,
    kind: str,
    finished_run: dict[str, Any],
    miniature: Path,
    launch: Callable,
    tmp_path: Path,
):
    model = {"clip": CLIPVisionModel, "lm": BertLMHeadModel}[kind]
    other = _other_weights(tmp_path / kind, model, miniature / kind)
    options = ("--cfg-options", f"model.{part}.pretrained={other}")

    def test(name: str) -> tuple[int, str]:
        checkpoint = finished_run["work"] / name
        arguments = ("tools/test.py", finished_run["config"], checkpoint, "--work-dir", tmp_path)
        result = launch(*arguments, *options)
        return result.returncode, result.stderr

    for name in ("transfer/model.pth", "detach/slim_1.pth"):
        status, error = test(name)
        assert status == 2, error[-2000:]
        assert f"was trained with another {part}" in error
        assert f"model.{part}.pretrained" in error
        assert "Traceback" not in error
    # The merged model has an encoder of its own, which the config does not name.
    status, error = test("merged/model.pth")
    assert status == (0 if part == "encoder" else 2), error[-2000:]


def _save_open_clip(folder: Path, **vision: Any) -> str:
    import open_clip

    tower = {"width": 32, "layers": 2, "head_width": 16, "patch_size": 8, "image_size": 32}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": {**tower, **vision}, "text_cfg": text}
    torch.manual_seed(0)
    folder.mkdir()
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    statistics = {"mean": [0.5] * 3, "std": [0.5] * 3}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": statistics})
    (folder / "open_clip_config.json").write_text(text)
    return str(folder)


@pytest.mark.slow
def test_an_encoder_of_open_clip_goes_through_every_stage(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    source = _save_open_clip(tmp_path / "clip")
    settings["model"]["encoder"] = {"type": "OpenCLIP", "pretrained": source}
    config, work = write_config(settings), tmp_path / "work"
    result = launch("tools/train.py", config, "--work-dir", work)
    assert result.returncode == 0, result.stderr[-2000:]
    merged = json.loads((work / "results.json").read_text())[-1]
    assert merged["name"] == "merged"
    again = tmp_path / "again"
    result = launch("tools/test.py", config, work / "merged/model.pth", "--work-dir", again)
    assert result.returncode == 0, result.stderr[-2000:]
    row = json.loads((again / "test-test/rows.json").read_text())[0]
    assert row["metrics"] == merged["metrics"]


@pytest.mark.slow
def test_an_encoder_that_cannot_be_exported_is_refused_before_the_merge_trains(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    source = _save_open_clip(tmp_path / "clip", ls_init_value=0.1)
    settings["model"]["encoder"] = {"type": "OpenCLIP", "pretrained": source}
    settings["stages"] = [
        s for s in settings["stages"] if s["name"] in ("transfer", "merge", "merged")
    ]
    work = tmp_path / "work"
    result = launch("tools/train.py", write_config(settings), "--work-dir", work)
    assert result.returncode == 2
    assert "ls_init_value" in result.stderr
    assert not (work / "merge" / "loss.jsonl").exists()
    assert (work / "transfer" / "model.pth").exists()


@pytest.mark.slow
def test_no_model_of_an_earlier_measurement_is_alive_when_the_next_is_built(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    built: list[weakref.ref] = []
    alive: list[int] = []
    build = VisionLanguageModel.__init__

    def counted(model: VisionLanguageModel, *args: Any, **kwargs: Any) -> None:
        alive.append(sum(other() is not None for other in built))
        built.append(weakref.ref(model))
        build(model, *args, **kwargs)

    monkeypatch.setattr(VisionLanguageModel, "__init__", wraps(build)(counted))
    cfg = Config(settings | {"work_dir": str(tmp_path)})
    check_config(cfg)
    runner = StagedRunner(cfg)
    gc.disable()  # whether it happens to run in time must not decide
    try:
        runner.run()
    finally:
        gc.enable()
    assert len(alive) == 12  # three of them rehearsals; the first stage takes over its own
    assert set(alive) == {0}


@pytest.mark.heavy
def test_what_was_made_of_a_replaced_model_is_made_anew(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["stages"] = [
        dict(type="TrainStage", name="transfer", row="tove"),
        dict(type="DetachStage", name="detach", source="transfer"),
    ]
    work = ("--work-dir", tmp_path / "work")
    assert launch("tools/train.py", write_config(settings), *work).returncode == 0
    first = json.loads((tmp_path / "work/detach/rows.json").read_text())
    settings["schedule"].update(steps=9)
    config = write_config(settings)
    alone = launch("tools/train.py", config, *work, "--stage", "transfer")
    assert alone.returncode == 0, alone.stderr[-2000:]
    again = launch("tools/train.py", config, *work, "--resume")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "transfer: finished earlier, kept" in again.stdout
    assert "is another model now; it begins again" in again.stdout
    rows = json.loads((tmp_path / "work/results.json").read_text())
    assert {row["steps"] for row in rows} == {9}
    assert {row["steps"] for row in first} == {6}
