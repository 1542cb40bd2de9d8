"""The method keeps tove's contract, and computes its equation."""

from pathlib import Path

import pytest
import torch
from tove.testing import parametrize_with_method_checks, small_model

README = Path(__file__).parents[1] / "README.md"


@parametrize_with_method_checks(["my_method"])
def test_keeps_the_contract(method, check):
    check(method)


def test_a_shut_gate_leaves_plain_clip_and_an_open_one_adds_the_sum():
    model = small_model("my_method").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tokens = model.hub(images)
        total = sum(model.projector.project_expert(slot, t) for slot, t in tokens.items())
        for score, share in ((-60.0, 0.0), (0.0, 0.5), (60.0, 1.0)):
            model.channel_gate.scores.fill_(score)
            fused = model.fuse(images)
            torch.testing.assert_close(fused.t_fuse, fused.v + share * total)


def test_each_channel_has_a_gate_of_its_own():
    model = small_model("my_method").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model.channel_gate.scores.fill_(-60.0)
        model.channel_gate.scores[3] = 60.0
        fused = model.fuse(images)
    changed = (fused.t_fuse - fused.v).abs().amax(dim=(0, 1)) > 0
    assert changed.nonzero().flatten().tolist() == [3]


def test_the_readme_tells_of_this_method():
    text = README.read_text()
    if "<!-- Rewrite this file" in text:
        pytest.skip("README.md is still the template's: rewrite it before you publish.")
    assert "my_method" in text
