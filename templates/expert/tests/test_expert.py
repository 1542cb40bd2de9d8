"""The expert keeps tove's contract, and sees what it is for."""

from pathlib import Path

import pytest
import torch
from tove_plugins import build_expert
from tove_plugins.testing import check_expert, parametrize_with_expert_checks

README = Path(__file__).parents[1] / "README.md"


@parametrize_with_expert_checks(["my_expert"])
def test_keeps_the_contract(expert, check):
    check(expert)


def test_keeps_the_contract_with_its_weights():
    check_expert("my_expert", real=True)


def test_an_edge_is_seen_where_it_is():
    images = torch.full((1, 3, 64, 64), -1.0)
    images[..., 44:] = 1.0  # gets brighter between columns 43 and 44: in cell 5, to the right
    tokens_hwD = build_expert("my_expert")(images).detach().view(8, 8, 16)
    strength_w = tokens_hwD.norm(dim=-1).mean(dim=0)
    assert (strength_w > 0.01).nonzero().flatten().tolist() == [5]
    assert tokens_hwD[0, 5, :8].argmax() == 0


def test_the_readme_tells_of_this_expert():
    text = README.read_text()
    if "<!-- Rewrite this file" in text:
        pytest.skip("README.md is still the template's: rewrite it before you publish.")
    assert "my_expert" in text
