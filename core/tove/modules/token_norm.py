"""Normalisation of experts' tokens, so that none counts for more by the scale of its features.

    none         y = x
    standardise  y = (x - mu) / sigma, by channel
    phi_s        y = phi^-1 H U^T (x - mu),  covariance U L U^T,  phi = sqrt(mean(L)),
                 H a normalised Hadamard matrix (PHI-S, arXiv 2410.01680): every channel gets
                 variance 1 by ONE scale and a rotation, so errors keep their relative size
    layer_norm   y = (x - mean(x)) / std(x), by token: nothing is fitted, a token's size is lost

mu, sigma and the covariance are those of a sample of the training's images, taken once before it
begins. They are buffers, so a checkpoint has them; nothing here trains. Until they are fitted
y = x, as it was for models whose checkpoints have no statistics.

Shapes: B images, N tokens, D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from tove.errors import ConfigError

__all__ = ["FittedNorm", "PhiS", "Standardise", "TokenNorm", "hadamard", "make_token_norm"]

TokenNorm = Literal["none", "standardise", "phi_s", "layer_norm"]

_EPS = 1e-6  # a variance is taken for no less than this share of the channels' mean variance


def make_token_norm(kind: TokenNorm, width: int) -> nn.Module:
    """Make the normalisation of tokens of a width.

    Raises:
        ConfigError: there is none of that kind for such a width.
    """
    if kind == "layer_norm":
        if width == 1:
            raise ConfigError(
                "token_norm='layer_norm' makes zeros of tokens of width 1; set "
                "token_norm='standardise' for this expert."
            )
        return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
    fitted = {"standardise": Standardise, "phi_s": PhiS}
    return fitted[kind](width) if kind in fitted else nn.Identity()


class FittedNorm(nn.Module):
    """A normalisation by the statistics of a sample; the identity until it is fitted."""

    def moments(self, x_BND: Tensor) -> Tensor:
        """Return sums over tokens, in float64: those of batches and ranks add up."""
        raise NotImplementedError

    def fit(self, moments: Tensor) -> None:
        """Take the statistics from the sums over a sample.

        Raises:
            ConfigError: the sample has no token.
        """
        raise NotImplementedError


class Standardise(FittedNorm):
    """y = (x - mu) / sigma by channel, kept as y = scale x + shift.

    Args:
        width: of the tokens.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("shift", torch.zeros(width))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Normalise tokens [B, N, D]."""
        return torch.addcmul(self.shift, x_BND, self.scale).to(x_BND.dtype)

    def moments(self, x_BND: Tensor) -> Tensor:
        """Return [2, D + 1]: sums of x and of x^2, and the count."""
        x1_TD1 = _with_ones(x_BND)
        return torch.stack([x1_TD1.sum(0), x1_TD1.square().sum(0)])

    @torch.no_grad()
    def fit(self, moments: Tensor) -> None:
        """Take mu and sigma from the sums of a sample."""
        mean_D, square_D = moments[:, :-1] / _count(moments[0, -1])
        var_D = (square_D - mean_D.square()).clamp(min=0)
        # What is less than a millionth of the mean is rounding, whatever the scale.
        var_D = var_D.maximum(_EPS * var_D.mean()).maximum((_EPS * mean_D).square())
        scale_D = torch.where(var_D > 0, var_D, 1).rsqrt()
        self.scale.copy_(scale_D)
        self.shift.copy_(-mean_D * scale_D)


class PhiS(FittedNorm):
    """y = phi^-1 H U^T (x - mu).

    Args:
        width: of the tokens; a Hadamard matrix of that size must be known.

    Raises:
        ConfigError: none is.
    """

    mean: Tensor
    rotation: Tensor
    phi: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        hadamard(width)  # refused here, not after hours of fitting
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("rotation", torch.eye(width))
        self.register_buffer("phi", torch.ones(()))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Normalise tokens [B, N, D]."""
        centred_BND = (x_BND - self.mean).to(self.rotation.dtype)
        return (centred_BND @ self.rotation.T / self.phi).to(x_BND.dtype)

    def moments(self, x_BND: Tensor) -> Tensor:
        """Return [D + 1, D + 1]: sums of products, sums and count in one matrix."""
        x1_TD1 = _with_ones(x_BND)
        return x1_TD1.T @ x1_TD1

    @torch.no_grad()
    def fit(self, moments: Tensor) -> None:
        """Take mean and covariance from the sums of a sample."""
        count = _count(moments[-1, -1])
        mean_D = moments[-1, :-1] / count
        covariance_DD = moments[:-1, :-1] / count - torch.outer(mean_D, mean_D)
        variance_D, vectors_DD = torch.linalg.eigh(covariance_DD)
        self.mean.copy_(mean_D)
        self.rotation.copy_(hadamard(len(mean_D)).to(vectors_DD) @ vectors_DD.T)
        phi = variance_D.clamp(min=0).mean().sqrt()
        self.phi.copy_(torch.where(phi > 0, phi, 1))


def _with_ones(x_BND: Tensor) -> Tensor:
    """Return all tokens [T, D + 1] in float64, with a 1 behind each, which counts them."""
    x_TD = x_BND.flatten(0, -2).double()
    return torch.cat([x_TD, x_TD.new_ones(len(x_TD), 1)], 1)


def _count(count: Tensor) -> Tensor:
    if not count:
        raise ConfigError(
            "The experts' tokens were to be normalised by the statistics of a sample of the "
            "training's images, but it holds none; give the training images, or set "
            "model.token_norm='none'."
        )
    return count


def hadamard(width: int) -> Tensor:
    """Return a normalised Hadamard matrix in float64: orthogonal, all entries +-1 / sqrt(width).

    Made of Sylvester's doubling of a Paley matrix of q + 1 rows, q a prime of the form 4n + 3:
    1,024 of 1; 768 and 3,072 of 12; 1,280 of 20; 1,408 of 44.

    Raises:
        ConfigError: the width is no power of two times 1 or such q + 1.
    """
    core = width
    while core > 1:
        if _is_paley(core - 1):
            break
        if core % 2:
            raise ConfigError(
                f"PHI-S needs a Hadamard matrix of the expert's width {width}, and none is known "
                "here; set token_norm='standardise' for this expert."
            )
        core //= 2
    matrix = _paley(core - 1) if core > 1 else torch.ones(1, 1, dtype=torch.float64)
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while len(matrix) < width:
        matrix = torch.kron(two, matrix)
    return matrix / width**0.5


def _is_paley(q: int) -> bool:
    return q % 4 == 3 and all(q % n for n in range(2, int(q**0.5) + 1))


def _paley(q: int) -> Tensor:
    """Return Paley's first construction, [q + 1, q + 1] of +-1: I + S of the Jacobsthal matrix."""
    squares = {n * n % q for n in range(1, q)}
    symbol = torch.tensor([0] + [1 if n in squares else -1 for n in range(1, q)]).double()
    index = torch.arange(q)
    skew = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = symbol[(index[:, None] - index) % q]
    return skew + torch.eye(q + 1, dtype=torch.float64)
