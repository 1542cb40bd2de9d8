"""The residual transfer and the parameter-matched baseline."""

import pytest
import torch

from tove.methods.baselines.matched_mlp import MatchedMLP
from tove.methods.tove.transfer import ResidualTransfer


def test_scale_multiplies_what_is_added():
    torch.manual_seed(0)
    v, z = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    one = ResidualTransfer(8, hidden=5, scale=1.0, zero_init=False)
    ten = ResidualTransfer(8, hidden=5, scale=10.0, zero_init=False)
    ten.load_state_dict(one.state_dict())
    torch.testing.assert_close(ten(v, z) - v, 10 * (one(v, z) - v), atol=1e-5, rtol=1e-5)
    assert "scale" not in dict(one.named_parameters())


def test_learned_scale_starts_at_one_and_learns():
    transfer = ResidualTransfer(8, zero_init=False)
    assert transfer.scale == 1
    transfer(torch.zeros(1, 1, 8), torch.ones(1, 1, 8)).sum().backward()
    assert transfer.scale.grad != 0


@pytest.mark.parametrize("budget", [2000, 12345, 100_000])
def test_matched_mlp_has_the_asked_parameters(budget):
    mlp = MatchedMLP(32, 20, budget)
    assert abs(sum(p.numel() for p in mlp.parameters()) - budget) <= (32 + 20 + 1) / 2
