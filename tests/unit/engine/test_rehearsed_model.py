"""A model that was built to be rehearsed is the one that the first stage trains."""

import json
import weakref
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from tove.engine.checkpoint import read_checkpoint
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.engine.stages.context import StageContext
from tove.methods.vision_language_model import VisionLanguageModel

ALIGN = dict(type="TrainStage", name="align", model=dict(type="PlainCLIP"), trains="projector")
TUNE = dict(type="TrainStage", name="tune", source="align", trains=["projector", "language.lm"])


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """The models that are built while the test runs."""
    models: list[weakref.ref] = []
    build = VisionLanguageModel.__init__

    @wraps(build)
    def counted(model: VisionLanguageModel, *args: Any, **kwargs: Any) -> None:
        models.append(weakref.ref(model))
        build(model, *args, **kwargs)

    monkeypatch.setattr(VisionLanguageModel, "__init__", counted)
    return models


def run(settings: dict[str, Any], folder: Path, stages: list[dict], **options: Any) -> None:
    cfg = Config({**settings, "stages": stages, "work_dir": str(folder)})
    check_config(cfg)
    StagedRunner(cfg, **options).run()


def test_two_stages_of_one_model_build_it_twice_and_train_as_if_nothing_was_rehearsed(
    settings: dict[str, Any],
    tmp_path: Path,
    built: list[weakref.ref],
    monkeypatch: pytest.MonkeyPatch,
):
    settings["schedule"].update(steps=2, warmup=0)
    settings.update(
        test_dataloader=settings["val_dataloader"],
        test_evaluator=dict(type="StatementAccuracy"),
        visualizer=dict(vis_backends=[]),
    )
    run(settings, tmp_path / "run", [ALIGN, TUNE])
    assert len(built) == 2
    with monkeypatch.context() as patch:
        patch.setattr(StagedRunner, "_rehearse", lambda *_: None)
        run(settings, tmp_path / "plain", [ALIGN, TUNE])
    for stage in ("align", "tune"):
        of_run, plain = (tmp_path / name / stage for name in ("run", "plain"))
        lines = [json.loads(line) for line in (plain / "loss.jsonl").read_text().splitlines()]
        assert (of_run / "loss.jsonl").read_text() == (plain / "loss.jsonl").read_text()
        assert len(lines) == settings["schedule"]["steps"]
        states = [read_checkpoint(f / "model.pth")["state_dict"] for f in (of_run, plain)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_model_of_other_settings_is_not_taken_over_and_not_kept(
    settings: dict[str, Any], tmp_path: Path, built: list[weakref.ref]
):
    cfg = Config({**settings, "work_dir": str(tmp_path)})
    check_config(cfg)
    context = StageContext(cfg, tmp_path)
    with context.rehearsed_model(dict(type="PlainCLIP")):
        pass
    context.build_model(dict(type="MatchedBaseline"))
    assert built[0]() is None
    with context.rehearsed_model(dict(type="PlainCLIP")) as model:
        pass
    assert context.build_model(dict(type="PlainCLIP")) is model
    assert context.build_model(dict(type="PlainCLIP")) is not model
