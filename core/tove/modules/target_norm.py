"""Normalisation of teachers' tokens, so that none dominates a loss by the scale of its features.

    standardise   y = (x - mu) / sigma, by channel; mu and sigma are an exponential mean over the
                  batches of training (UNIC, arXiv 2408.05088), or those of a sample, then fixed
    phi_s         y = phi^-1 H U^T (x - mu),  covariance U L U^T,  phi = sqrt(mean(L)),
                  H a normalised Hadamard matrix (PHI-S, arXiv 2410.01680): every channel gets
                  variance 1 by ONE scale and a rotation, so errors keep their relative size

Both are invertible. Statistics are those of the global batch and are buffers, so a checkpoint has
them; nothing here trains.

Shapes: B images, N tokens, T = B * N of them that count, D width.
"""

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor, nn

from tove.config.validation import Range
from tove.errors import ConfigError
from tove.modules.collectives import num_ranks, sum_over_ranks

__all__ = ["PhiS", "Standardise", "hadamard"]

_EPS = 1e-6  # a channel that hardly changes is divided by no less than this share of the mean


class Standardise(nn.Module):
    """y = (x - mu) / sigma by channel, following the batches of training.

    Args:
        width: of the tokens.
        momentum: weight of a new batch, the first one's being 1. None keeps what `fit` found.
    """

    mean: Tensor
    var: Tensor
    num_updates: Tensor

    def __init__(
        self, width: int, momentum: Annotated[float, Range(0, 1, above=True)] | None = 0.01
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        """Normalise tokens [B, N, D]; in training their statistics are taken in first.

        Args:
            x_BND: a teacher's tokens.
            valid_BN: False for tokens that are padding or of no image; None is all of them.
        """
        if self.training and self.momentum is not None:
            self._follow(x_BND.detach(), valid_BN, self.momentum)
        return ((x_BND - self.mean) * _inverse_root(self.var)).to(x_BND.dtype)

    def inverse(self, y_BND: Tensor) -> Tensor:
        """Return the tokens that `forward` made y of."""
        return (y_BND / _inverse_root(self.var) + self.mean).to(y_BND.dtype)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take the statistics of a sample of tokens [B, N, D], this rank's part of it."""
        mean_D, covariance_DD = _moments(batches)
        self.mean.copy_(mean_D)
        self.var.copy_(covariance_DD.diagonal())
        self.num_updates.fill_(1)

    @torch.no_grad()
    def _follow(self, x_BND: Tensor, valid_BN: Tensor | None, momentum: float) -> None:
        x_TD = x_BND.flatten(0, -2).to(self.mean.dtype)
        weight_T1 = x_TD.new_ones(len(x_TD), 1) if valid_BN is None else valid_BN.reshape(-1, 1)
        # Sums of x - mean, not of x, in float32: their squares do not cancel.
        centred_TD = (x_TD - self.mean) * weight_T1
        sums = torch.stack([centred_TD.sum(0), centred_TD.square().sum(0)])
        count = weight_T1.sum().to(sums.dtype)
        if num_ranks() > 1:
            count, sums = sum_over_ranks(count), sum_over_ranks(sums)
        shift_D, square_D = sums / count.clamp(min=1)
        some = (count > 0).to(sums.dtype)  # a batch without an image changes nothing
        first = (self.num_updates == 0).to(sums.dtype)
        step = (first + (1 - first) * momentum) * some
        self.var.lerp_(square_D - shift_D.square(), step)
        self.mean.add_(shift_D * step)
        self.num_updates.add_(some.to(torch.int64))


class PhiS(nn.Module):
    """y = phi^-1 H U^T (x - mu), fitted once on a sample.

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

    def forward(self, x_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
        """Normalise tokens [B, N, D]; `valid_BN` is taken for the sake of `Standardise`'s users."""
        return ((x_BND - self.mean) @ self.rotation.T / self.phi).to(x_BND.dtype)

    def inverse(self, y_BND: Tensor) -> Tensor:
        """Return the tokens that `forward` made y of."""
        return (y_BND * self.phi @ self.rotation + self.mean).to(y_BND.dtype)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take mean and covariance of a sample of tokens [B, N, D], this rank's part of it."""
        mean_D, covariance_DD = _moments(batches)
        variance_D, vectors_DD = torch.linalg.eigh(covariance_DD)
        self.mean.copy_(mean_D)
        self.rotation.copy_(hadamard(len(mean_D)).to(vectors_DD) @ vectors_DD.T)
        self.phi.copy_(variance_D.clamp(min=0).mean().sqrt().clamp(min=_EPS))


def _inverse_root(var_D: Tensor) -> Tensor:
    return torch.maximum(var_D, _EPS * var_D.mean()).clamp(min=_EPS**2).rsqrt()


def _moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean [D] and covariance [D, D] of all ranks' tokens, in float64.

    Raises:
        ConfigError: there is no token.
    """
    sums: Tensor | None = None
    for batch in batches:
        x_TD = batch.flatten(0, -2).double()
        x1_TD1 = torch.cat([x_TD, x_TD.new_ones(len(x_TD), 1)], 1)
        product = x1_TD1.T @ x1_TD1  # sums of products, sums and count in one matrix
        sums = product if sums is None else sums + product
    if sums is None:
        raise ConfigError(
            "A teacher's tokens were to be normalised by the statistics of a sample, but the "
            "sample is empty; give it images."
        )
    sums = sum_over_ranks(sums) if num_ranks() > 1 else sums
    mean_D = sums[-1, :-1] / sums[-1, -1]
    return mean_D, sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean_D, mean_D)


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
                f"PHI-S needs a Hadamard matrix of the teacher's width {width}, and none is known "
                "here; set target_norm='standardise' for this teacher."
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
