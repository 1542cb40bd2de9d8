"""A stage that goes on from a merge has the merged encoder's tokens, not those it knew of CLIP."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tove.config.data_sets import fill_in
from tove.engine.stages.context import StageContext
from tove.engine.stages.resume import start_training

IDS = ["a", "b"]


@pytest.fixture
def context(settings, tmp_path) -> StageContext:
    settings["model"]["token_cache"] = dict(max_gb=0.1)
    cfg = Config({**settings, "work_dir": str(tmp_path / "work")})
    fill_in(cfg)
    return StageContext(cfg=cfg, work_dir=Path(cfg.work_dir))


def test_tokens_known_of_clip_are_not_given_for_a_merged_encoder(context):
    plain = dict(type="PlainCLIP")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = context.build_model(plain)
    of_clip = model.encode(images, IDS)  # kept for all models of the run

    student = context.build_model(plain)
    for parameter in student.encoder.parameters():
        parameter.data.mul_(1.1)
    encoder = {f"encoder.{n}": t for n, t in student.encoder.state_dict().items()}
    path = context.model_path("merge")
    path.parent.mkdir(parents=True)
    meta = context.meta(student, "merge", settings=plain)
    torch.save(dict(state_dict={**student.state_dict(), **encoder}, meta=meta), path)

    tuned = context.build_model(plain)
    start_training(context, "tune", tuned, "merge")
    tokens = tuned.encode(images, IDS)
    assert torch.equal(tokens, student.encoder(images))
    assert not torch.allclose(tokens, of_clip, atol=1e-3)
    assert torch.equal(model.encode(images, IDS), of_clip)
