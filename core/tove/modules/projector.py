"""Projection of every encoder's tokens into the language model's space (ToVE, section 3).

    P_k(t) = W_s . GELU(W_k t + b_k) + b_s      W_k per encoder (CLIP too), W_s shared by all
    v      = P_clip(t_clip)
    z_i    = sum_k g_ik P_k(t_k)_i
           = W_s . (sum_k g_ik GELU(W_k t_k + b_k)_i) + b_s          because sum_k g_ik = 1

The second form is what runs: the shared layer is applied once, not K times, and no tensor of
[K, B, N, d_lang] exists. Experts' grids are resampled to CLIP's before the GELU; resampling is
linear and its weights sum to one, so it commutes with W_k t + b_k, and the linear layer is run on
whichever of the two grids has fewer tokens.

An expert that gives a low-level map has a small convolutional stem in place of W_k t + b_k
(`map_stem`), for a pixel says little by itself; GELU and W_s follow it as they do for the others.

Shapes: B batch, N tokens on CLIP's grid, M tokens on an expert's own grid, K experts,
D a token's width, H hidden width, L language width (d_lang).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, cast

from torch import Tensor, nn
from torch.nn import functional as F

from tove.config.validation import Range
from tove.modules.map_stem import MapStem
from tove.modules.resample import resample_tokens

__all__ = ["Projector", "first_layer"]


def first_layer(
    width: int, grid_in: tuple[int, int], grid_out: tuple[int, int], hidden: int, is_map: bool
) -> nn.Module:
    """Make what comes before an expert's GELU: W_k t + b_k, or a map's stem.

    Args:
        width: of the expert's tokens.
        grid_in: of the expert's tokens.
        grid_out: CLIP's.
        hidden: width of the result.
        is_map: the expert gives a low-level map, not features.
    """
    return MapStem(width, grid_in, grid_out, hidden) if is_map else nn.Linear(width, hidden)


class Projector(nn.Module):
    """First layers by slot, one shared second layer.

    Args:
        d_clip: width of CLIP's tokens.
        expert_widths: token width of every expert, by slot.
        grid: CLIP's token grid (height, width).
        expert_grids: token grid of every expert, by slot.
        hidden: width between the two layers.
        d_lang: width of the language model.
        map_slots: the experts that give low-level maps, which get a stem each.
    """

    def __init__(
        self,
        d_clip: int,
        expert_widths: Mapping[str, int],
        grid: tuple[int, int],
        expert_grids: Mapping[str, tuple[int, int]],
        hidden: Annotated[int, Range(1)],
        d_lang: int,
        map_slots: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.grid = grid
        self.expert_grids = {slot: expert_grids[slot] for slot in expert_widths}
        self.first = nn.ModuleDict({"clip": nn.Linear(d_clip, hidden)})
        self.shared = nn.Linear(hidden, d_lang)
        # The experts' layers come last: CLIP's and the shared one then draw the same initial
        # weights whichever experts a config names.
        for slot, width in expert_widths.items():
            self.first[slot] = first_layer(
                width, expert_grids[slot], grid, hidden, slot in map_slots
            )

    def project_clip(self, t_clip_BND: Tensor) -> Tensor:
        """Return v = P_clip(t_clip), [B, N, L]."""
        first = cast(nn.Linear, self.first["clip"])
        return self.shared(F.gelu(first(t_clip_BND.to(first.weight.dtype))))

    def hidden_tokens(self, slot: str, tokens_BMD: Tensor) -> Tensor:
        """Return GELU(W_k t + b_k), or GELU of a map's stem, on CLIP's grid, [B, N, H]."""
        first, grid_in = self.first[slot], self.expert_grids[slot]
        if isinstance(first, MapStem):
            return F.gelu(resample_tokens(first(tokens_BMD), first.grid, self.grid))
        first = cast(nn.Linear, first)
        tokens_BMD = tokens_BMD.to(first.weight.dtype)
        if grid_in[0] * grid_in[1] > self.grid[0] * self.grid[1]:
            return F.gelu(first(resample_tokens(tokens_BMD, grid_in, self.grid)))
        return F.gelu(resample_tokens(first(tokens_BMD), grid_in, self.grid))

    def project_expert(self, slot: str, tokens_BMD: Tensor) -> Tensor:
        """Return P_k(t_k) on CLIP's grid, [B, N, L]."""
        return self.shared(self.hidden_tokens(slot, tokens_BMD))

    def mix(
        self,
        gates_BNK: Tensor,
        slots: Sequence[str],
        expert_tokens: Mapping[str, Tensor],
        known: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return z, the gated sum of the experts' projections, [B, N, L].

        Args:
            gates_BNK: weights whose rows sum to one over the slots in `expert_tokens`.
            slots: the slot of every column of `gates_BNK`.
            expert_tokens: tokens on each expert's own grid; slots that are absent take no part.
            known: of some slots, the `hidden_tokens`, which are then not made anew.
        """
        return self.shared(self._gated_sum(gates_BNK, slots, expert_tokens, known or {}))

    def _gated_sum(
        self,
        gates_BNK: Tensor,
        slots: Sequence[str],
        expert_tokens: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the gated sum of what is known of slots, and of the others' `hidden_tokens`."""
        mixed_BNH = None
        for column, slot in enumerate(slots):
            if slot not in expert_tokens:
                continue
            hidden_BNH = known.get(slot)
            if hidden_BNH is None:
                hidden_BNH = self.hidden_tokens(slot, expert_tokens[slot])
            term_BNH = gates_BNK[..., column : column + 1] * hidden_BNH
            mixed_BNH = term_BNH if mixed_BNH is None else mixed_BNH + term_BNH
        if mixed_BNH is None:
            raise ValueError(
                "There is no expert to mix: with every expert detached t_fuse is P_clip(t_clip), "
                "so call project_clip alone."
            )
        return mixed_BNH
