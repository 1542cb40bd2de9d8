"""An expert that breaks when a model is used."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tove.errors import ConfigError
from tove.reproduce import broken
from tove.reproduce.broken import BrokenExpertStage

CONTEXT: Any = SimpleNamespace(device=torch.device("cpu"), seed=3)


def arriving(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Give what reaches the fusion, by slot."""
    return model._tokens_but((), images.float() / 255, None)


@pytest.mark.parametrize("way", ["zero", "noise"])
def test_one_expert_s_tokens_break_and_the_others_arrive(make_model, batch, way):
    model = make_model().eval()
    whole = arriving(model, batch["images"])
    BrokenExpertStage("b", "t", "fine", way)._break(model, "", CONTEXT)
    found = arriving(model, batch["images"])
    assert torch.equal(found["coarse"], whole["coarse"])
    assert found["fine"].shape == whole["fine"].shape
    if way == "zero":
        assert not found["fine"].any()
    else:
        assert found["fine"].std() == pytest.approx(1, abs=0.1)
        assert not torch.equal(found["fine"], whole["fine"])


def test_another_scene_s_tokens_come_at_the_scale_of_the_expert_s_own(
    make_model, batch, monkeypatch
):
    class Elsewhere(torch.nn.Module):
        def __init__(self, of: str) -> None:
            super().__init__()
            assert of == "tiny_fine"

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.min() < -0.5  # as the expert is given them
            return torch.full((len(images), 64, 10), 7.0)

    monkeypatch.setattr(broken, "OtherImage", Elsewhere)
    model = make_model().eval()
    BrokenExpertStage("b", "t", "fine", "other")._break(model, "tiny_fine", CONTEXT)
    found = arriving(model, batch["images"])["fine"]
    assert torch.equal(found, model.hub.normalise("fine", torch.full((3, 64, 10), 7.0)))


def test_a_slot_that_the_source_does_not_have_is_said(monkeypatch):
    monkeypatch.setattr(broken, "check_source", lambda *_: None)
    monkeypatch.setattr(broken, "check_detachable", lambda *_: ["depth", "dino"])
    with pytest.raises(ConfigError, match=r"slot is 'dept'.*Did you mean 'depth'"):
        BrokenExpertStage("b", "t", "dept", "zero").check(CONTEXT)
