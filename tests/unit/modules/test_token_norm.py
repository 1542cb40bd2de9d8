"""Normalisations of tokens, by their definitions."""

import copy

import pytest
import torch

from tove.errors import ConfigError
from tove.modules.token_norm import PhiS, Standardise, hadamard, make_token_norm


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sample(width=12, tokens=400):
    """Correlated tokens of unlike scales, far from zero, in two batches."""
    mixing = torch.randn(width, width) * torch.logspace(-1, 1, width)
    x = torch.randn(4, tokens, width) @ mixing + 10 * torch.randn(width)
    return [x[:3], x[3:]]


def fitted(norm, batches):
    norm.fit(sum(norm.moments(x) for x in batches))
    return norm


@pytest.mark.parametrize("width", [1, 2, 12, 64, 384, 768, 1024, 1280, 1408, 3072])
def test_hadamard(width):
    h = hadamard(width)
    assert h.shape == (width, width)
    torch.testing.assert_close(h.abs(), torch.full_like(h, width**-0.5))
    torch.testing.assert_close(h @ h.T, torch.eye(width).double(), atol=1e-10, rtol=0)


def test_a_width_that_a_kind_cannot_do_is_a_sentence():
    for width in (6, 10, 100):
        with pytest.raises(ConfigError, match=rf"width {width}, .*standardise"):
            make_token_norm("phi_s", width)
    with pytest.raises(ConfigError, match="zeros of tokens of width 1"):
        make_token_norm("layer_norm", 1)


def test_phi_s_is_a_rotation_and_one_scale_to_unit_variances():
    batches = sample()
    norm = fitted(PhiS(12), batches)
    x = torch.cat(batches).flatten(0, 1)
    y = norm(x[None])[0]
    torch.testing.assert_close(y.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(12), atol=1e-4, rtol=0)
    # Distances keep their ratio: one scale, the root of the mean variance.
    phi = x.var(0, correction=0).mean().sqrt()
    ratio = (y[0] - y[1]).norm() * phi / (x[0] - x[1]).norm()
    assert ratio.item() == pytest.approx(1, abs=1e-4)
    rebuilt = PhiS(12)
    rebuilt.load_state_dict(norm.state_dict())
    assert torch.equal(rebuilt(x[None])[0], y)


@pytest.mark.parametrize("constant", [0.0, 0.3, 379.0])
@pytest.mark.parametrize("kind", ["phi_s", "standardise"])
def test_constant_tokens_become_zero(kind, constant):
    x = torch.full((1, 5, 4), constant)
    norm = fitted(make_token_norm(kind, 4), [x])
    assert norm(x).abs().max() < 0.1


def test_a_channel_that_never_changes_is_not_blown_up():
    x = torch.randn(1, 50, 2)
    x[..., 1] = 3
    norm = fitted(Standardise(2), [x])
    x[..., 1] += 1e-6
    assert norm(x)[..., 1].abs().max() < 0.01


def test_standardise_gives_every_channel_mean_0_and_variance_1():
    batches = sample()
    norm = fitted(Standardise(12), batches)
    y = norm(torch.cat(batches))
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(y.var((0, 1), correction=0), torch.ones(12), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [(kind, factor) for kind in ("phi_s", "standardise") for factor in (1e-4, 30.0, 1e4)]
    + [("layer_norm", 30.0)],
)
def test_the_scale_of_the_tokens_is_gone(kind, factor):
    batches = sample()
    ours, theirs = make_token_norm(kind, 12), make_token_norm(kind, 12)
    if kind != "layer_norm":
        fitted(ours, batches)
        fitted(theirs, [factor * x for x in batches])
    x = batches[1]
    # PHI-S may turn an axis round: its signs are those of eigenvectors.
    expected, found = ours(x).norm(dim=-1), theirs(factor * x).norm(dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(make_token_norm("none", 12)(x), factor * x)


@pytest.mark.parametrize("kind", ["phi_s", "standardise"])
def test_what_is_not_fitted_changes_nothing(kind):
    x = torch.randn(2, 5, 4)
    assert torch.equal(make_token_norm(kind, 4)(x), x)


def test_an_empty_sample_is_a_sentence():
    for norm in (Standardise(4), PhiS(4)):
        with pytest.raises(ConfigError, match="holds none"):
            norm.fit(norm.moments(torch.zeros(0, 4)))


@pytest.mark.parametrize("kind", ["phi_s", "standardise", "layer_norm"])
def test_dtype_is_the_tokens_and_meta_is_enough(kind):
    norm = make_token_norm(kind, 4)
    assert norm(torch.randn(1, 3, 4).bfloat16()).dtype == torch.bfloat16
    assert copy.deepcopy(norm).to("meta")(torch.randn(1, 3, 4, device="meta")).shape == (1, 3, 4)
