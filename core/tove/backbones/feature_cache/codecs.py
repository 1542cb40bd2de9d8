"""How tokens are stored: parts joined by "+", such as "pool+bf16" or "pool+pca256+int8".

    pool    resampled to the encoder's grid, where that is the coarser one; maps keep theirs
    pcaK    y = (t - mean) V, the K first principal directions of a sample's tokens
    fp32    as they are
    bf16    rounded to bfloat16
    int8    q = round(y / s), s = max |y| / 127 of each channel of each image

The first two may be left out; one of the last three ends the notation.

Shapes: B images, M tokens on the own grid, N on the stored one, D a token's width, K channels kept.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tove.backbones.feature_cache.key import Source
from tove.errors import ConfigError
from tove.modules.resample import resample_tokens

__all__ = ["DEFAULT", "Codec", "Layout"]

DEFAULT = "pool+bf16"
_NOTATION = re.compile(r"(?P<pool>pool\+)?(pca(?P<pca>[1-9]\d*)\+)?(?P<numbers>fp32|bf16|int8)")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""Dtype and shape of each array of one entry."""


class Codec:
    """One way to store the tokens of one network.

    Args:
        text: the notation.
        source: whose tokens.
        pooled: the encoder's grid.

    Attributes:
        grid: of the stored tokens.
        layout: of an entry.
        state: what was fitted: "mean" [D] and "basis" [D, K]; empty without pca or before `fit`.

    Raises:
        ConfigError: the notation cannot be read, or keeps more channels than there are.
    """

    def __init__(self, text: str, source: Source, pooled: tuple[int, int]) -> None:
        found = _NOTATION.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"The codec {text!r} of '{source.slot}' in model.token_cache cannot be read; write "
                "fp32, bf16 or int8, with 'pool+' or 'pca256+' or both before it."
            )
        self.text, self.own_grid, self.width = text, source.grid, source.width
        shrinks = pooled[0] * pooled[1] < source.grid[0] * source.grid[1]
        pools = bool(found["pool"]) and shrinks and not source.is_map
        self.grid: tuple[int, int] = pooled if pools else source.grid
        self.components = int(found["pca"]) if found["pca"] else None
        if self.components is not None and self.components > source.width:
            raise ConfigError(
                f"The codec {text!r} of '{source.slot}' keeps {self.components} channels of "
                f"{source.width}; keep fewer, or leave pca out."
            )
        self.dtype = _DTYPES[found["numbers"]]
        channels = self.components or source.width
        self.layout: Layout = {"tokens": (self.dtype, (self.grid[0] * self.grid[1], channels))}
        if self.dtype == torch.int8:
            self.layout["scale"] = (torch.float32, (channels,))
        self.state: dict[str, Tensor] = {}

    @property
    def entry_bytes(self) -> int:
        """Bytes of one view's tokens."""
        return sum(
            torch.Size(shape).numel() * dtype.itemsize for dtype, shape in self.layout.values()
        )

    @property
    def copies(self) -> bool:
        """Whether what `decode` returns is never what it was given."""
        return self.dtype != torch.float32 or self.components is not None

    @property
    def fitted(self) -> bool:
        """Whether `encode` can run."""
        return self.components is None or bool(self.state)

    def fit(self, tokens_BMD: Tensor) -> None:
        """Find the principal directions of a sample's tokens, where the codec has any."""
        if self.components is None:
            return
        rows = self.pool(tokens_BMD).flatten(0, 1).double()
        mean_D = rows.mean(0)
        centred = rows - mean_D
        basis_DD = torch.linalg.eigh(centred.T @ centred / len(rows)).eigenvectors.flip(1)
        self.state = {
            "mean": mean_D.float().cpu(),
            "basis": basis_DD[:, : self.components].float().contiguous().cpu(),
        }

    def pool(self, tokens_BMD: Tensor) -> Tensor:
        """Return the tokens on the grid that is stored, float32 [B, N, D]."""
        return resample_tokens(tokens_BMD.float(), self.own_grid, self.grid)

    def encode(self, tokens_BMD: Tensor) -> dict[str, Tensor]:
        """Return the arrays of each image's entry, on the tokens' device."""
        y_BNK = self.pool(tokens_BMD)
        if self.components is not None:
            y_BNK = (y_BNK - self._state("mean", y_BNK)) @ self._state("basis", y_BNK)
        if self.dtype != torch.int8:
            return {"tokens": y_BNK.to(self.dtype)}
        scale_BK = y_BNK.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        q_BNK = (y_BNK / scale_BK[:, None]).round().clamp(-127, 127)
        return {"tokens": q_BNK.to(torch.int8), "scale": scale_BK}

    def decode(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Return tokens [B, N, D], float32, of what `encode` gave; on the arrays' device."""
        y_BNK = arrays["tokens"].float()
        if "scale" in arrays:
            y_BNK = y_BNK * arrays["scale"][:, None]
        if self.components is None:
            return y_BNK
        return y_BNK @ self._state("basis", y_BNK).T + self._state("mean", y_BNK)

    def error(self, tokens_BMD: Tensor) -> float:
        """Return what share of the variance of pooled tokens is lost, 0 to 1 and more."""
        pooled_BND = self.pool(tokens_BMD).double()
        lost = (self.decode(self.encode(tokens_BMD)).double() - pooled_BND).square().sum()
        spread = (pooled_BND - pooled_BND.mean((0, 1))).square().sum()
        return float(lost / spread.clamp_min(torch.finfo(torch.float64).tiny))

    def _state(self, name: str, like: Tensor) -> Tensor:
        if self.state[name].device != like.device:
            self.state[name] = self.state[name].to(like.device)
        return self.state[name]
