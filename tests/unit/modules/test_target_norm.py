"""PHI-S and standardisation of targets, by their definitions."""

import copy

import pytest
import torch

from tove.errors import ConfigError
from tove.modules.target_norm import PhiS, Standardise, hadamard


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sample(width=12, tokens=400):
    """Correlated tokens of unlike scales, far from zero, in two batches."""
    mixing = torch.randn(width, width) * torch.logspace(-1, 1, width)
    x = torch.randn(4, tokens, width) @ mixing + 10 * torch.randn(width)
    return [x[:3], x[3:]]


@pytest.mark.parametrize("width", [1, 2, 12, 64, 384, 768, 1024, 1280, 1408, 3072])
def test_hadamard(width):
    h = hadamard(width)
    assert h.shape == (width, width)
    torch.testing.assert_close(h.abs(), torch.full_like(h, width**-0.5))
    torch.testing.assert_close(h @ h.T, torch.eye(width).double(), atol=1e-10, rtol=0)


def test_a_width_without_hadamard_matrix_is_a_sentence():
    for width in (6, 10, 100):
        with pytest.raises(ConfigError, match=rf"width {width}, .*standardise"):
            PhiS(width)


def test_phi_s_is_a_rotation_and_one_scale_to_unit_variances():
    batches, norm = sample(), PhiS(12)
    norm.fit(batches)
    x = torch.cat(batches).flatten(0, 1)
    y = norm(x[None])[0]
    torch.testing.assert_close(y.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(12), atol=1e-4, rtol=0)
    # Distances keep their ratio: one scale, the root of the mean variance.
    phi = x.var(0, correction=0).mean().sqrt()
    ratio = (y[0] - y[1]).norm() * phi / (x[0] - x[1]).norm()
    assert ratio.item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(norm.inverse(y[None])[0], x, atol=1e-3, rtol=1e-4)
    rebuilt = PhiS(12)
    rebuilt.load_state_dict(norm.state_dict())
    assert torch.equal(rebuilt(x[None])[0], y)


@pytest.mark.parametrize("kind", [PhiS, Standardise])
def test_constant_tokens_become_zero(kind):
    norm = kind(4).eval()
    norm.fit([torch.ones(1, 5, 4)])
    assert norm(torch.ones(1, 5, 4)).abs().max() == 0


def test_a_channel_that_never_changes_is_not_blown_up():
    norm, x = Standardise(2).eval(), torch.randn(1, 50, 2)
    x[..., 1] = 3
    norm.fit([x])
    x[..., 1] += 1e-6
    assert norm(x)[..., 1].abs().max() < 0.01


def test_standardise_fits_a_sample():
    batches, norm = sample(), Standardise(12, momentum=None)
    norm.fit(batches)
    x = torch.cat(batches)
    y = norm.train()(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(y.var((0, 1), correction=0), torch.ones(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(norm.inverse(y), x, atol=1e-3, rtol=1e-4)


def test_an_empty_sample_is_a_sentence():
    with pytest.raises(ConfigError, match="sample is empty"):
        Standardise(3).fit([])


def test_standardise_follows_training():
    norm = Standardise(2, momentum=0.25)
    first = torch.tensor([[[0.0, 10.0], [4.0, 14.0]]])  # means 2, 12; variances 4, 4
    norm.train()(first)
    assert norm.mean.tolist() == [2, 12]
    assert norm.var.tolist() == [4, 4]
    second = torch.tensor([[[6.0, 12.0], [6.0, 12.0]]])  # means 6, 12; variances 0, 0
    norm(second)
    assert norm.mean.tolist() == [3, 12]
    assert norm.var.tolist() == [3, 3]
    kept = copy.deepcopy(norm.state_dict())
    norm.eval()(first)
    norm.train()(first, torch.zeros(1, 2, dtype=torch.bool))  # a batch without an image
    assert all(torch.equal(kept[name], value) for name, value in norm.state_dict().items())


def test_padding_takes_no_part():
    norms = [Standardise(3), Standardise(3)]
    x, valid = torch.randn(2, 4, 3), torch.tensor([[True] * 4, [True, True, False, False]])
    norms[0].train()(x, valid)
    norms[1].train()(torch.cat([x[0], x[1, :2]])[None])
    torch.testing.assert_close(norms[0].mean, norms[1].mean)
    torch.testing.assert_close(norms[0].var, norms[1].var)


@pytest.mark.parametrize("norm", [Standardise(4), PhiS(4)])
def test_dtype_is_the_tokens_and_meta_is_enough(norm):
    assert norm.train()(torch.randn(1, 3, 4).bfloat16()).dtype == torch.bfloat16
    assert copy.deepcopy(norm).to("meta")(torch.randn(1, 3, 4, device="meta")).shape == (1, 3, 4)
