"""Token-aware gate (ToVE, section 3); its noise is that of Shazeer et al. (arXiv 1701.06538).

    s = G(t_clip)                                   the gate sees CLIP's tokens only
    s_k = G_k(t_clip) + E_k(GELU(W_k t_k + b_k))    or, ours, each expert's own token too
    g = softmax_K(s / temperature)                  over attached experts; top_k keeps the best k
    noisy:  s + eps * noise * softplus(G_n(t_clip)),  eps ~ N(0, 1), in training only

    load_k = sum over all tokens of P(k is among the top k under new noise)     (smooth load)

What keeps the gate from using one expert alone is in `balance`.

Shapes: B batch, N tokens, D CLIP width, H hidden width, K all slots, A attached slots.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.config.validation import Range

__all__ = [
    "GateOutput",
    "TokenGate",
]

_MIN_NOISE = 1e-2  # Shazeer's noise_epsilon: keeps the smooth load's division finite


@dataclass(frozen=True, slots=True)
class GateOutput:
    """What the gate decided for one batch.

    Attributes:
        weights: [B, N, K]; a detached expert's column is exactly zero, the rest of a row sums to 1.
        load: [K], how many tokens each expert is expected to get; None for a dense gate.
    """

    weights: Tensor
    load: Tensor | None = None


class TokenGate(nn.Module):
    """One score per token and expert, from CLIP's tokens.

    Every slot has heads of its own, held by name: slots are added or dropped without touching
    the others' weights. An expert's score never depends on another one's tokens.

    Args:
        width: of CLIP's tokens.
        slots: all configured experts; the order of the output's columns.
        hidden: width of a hidden layer shared by the heads; None is a linear gate.
        noise: scale of Shazeer's trained gate noise; 0 is none.
        top_k: experts kept per token; None is all of them (dense).
        temperature: divides the scores; above 1 flattens the gate.
        headless: slots that have a column but no head: detached for good.
        sees: "experts" adds to each score what the expert's own token says.
        expert_width: of the experts' tokens behind their first layer, which "experts" needs.
    """

    def __init__(
        self,
        width: int,
        slots: Sequence[str],
        hidden: Annotated[int, Range(1)] | None = None,
        noise: Annotated[float, Range(0)] = 0.0,
        top_k: Annotated[int, Range(1)] | None = None,
        temperature: Annotated[float, Range(0, above=True)] = 1.0,
        headless: Collection[str] = (),
        sees: Literal["clip", "experts"] = "clip",
        expert_width: int = 0,
    ) -> None:
        super().__init__()
        self.slots = tuple(slots)
        self.sees_experts = sees == "experts"
        self.noise, self.top_k, self.temperature = noise, top_k, temperature
        self.trunk = nn.Sequential(nn.Linear(width, hidden), nn.GELU()) if hidden else nn.Identity()
        headed = [slot for slot in slots if slot not in headless]
        self.heads = nn.ModuleDict({slot: nn.Linear(hidden or width, 1) for slot in headed})
        self.noise_heads = nn.ModuleDict(
            {slot: nn.Linear(hidden or width, 1, bias=False) for slot in headed} if noise else {}
        )
        own = headed if self.sees_experts else []
        self.own_heads = nn.ModuleDict({s: nn.Linear(expert_width, 1, bias=False) for s in own})

    def forward(
        self,
        t_clip_BND: Tensor,
        detached: Collection[str] = (),
        experts: Mapping[str, Tensor] | None = None,
    ) -> GateOutput:
        """Return the gate weights of all slots, [B, N, K]; detached slots are never scored.

        Args:
            t_clip_BND: CLIP's tokens.
            detached: slots that take no part.
            experts: by attached slot, its tokens [B, N, expert_width] on CLIP's grid, for a gate
                that sees them.
        """
        attached = [slot for slot in self.heads if slot not in detached]
        if not attached:
            return GateOutput(t_clip_BND.new_zeros(*t_clip_BND.shape[:-1], len(self.slots)))
        heads = [cast(nn.Linear, self.heads[slot]) for slot in attached]
        x_BNH = self.trunk(t_clip_BND.to(heads[0].weight.dtype))
        weight_AH = torch.cat([head.weight for head in heads])
        bias_A = torch.cat([head.bias for head in heads])
        scores_BNA = F.linear(x_BNH, weight_AH, bias_A)
        if self.sees_experts:
            seen = experts or {}
            own = [self.own_heads[slot](seen[slot]) for slot in attached]
            scores_BNA = scores_BNA + torch.cat(own, -1)
        clean_BNA = scores_BNA / self.temperature

        noisy_BNA, std_BNA = clean_BNA, None
        if self.noise and self.training:
            noise_heads = (cast(nn.Linear, self.noise_heads[slot]) for slot in attached)
            noise_AH = torch.cat([head.weight for head in noise_heads])
            std_BNA = self.noise * (F.softplus(F.linear(x_BNH, noise_AH)) + _MIN_NOISE)
            noisy_BNA = clean_BNA + torch.randn_like(clean_BNA) * std_BNA

        weights_BNA, load_A = noisy_BNA.softmax(-1), None
        if self.top_k is not None and self.top_k < len(attached):
            top_BNk, index_BNk = noisy_BNA.topk(self.top_k, dim=-1)
            # Autocast makes softmax float32 whatever the scores are, and scatter wants one dtype.
            kept_BNk = top_BNk.softmax(-1)
            weights_BNA = torch.zeros_like(weights_BNA).scatter(-1, index_BNk, kept_BNk)
            if std_BNA is None:
                load_A = (weights_BNA > 0).flatten(0, 1).sum(0).float()
            else:
                load_A = _smooth_load(clean_BNA, noisy_BNA, std_BNA, self.top_k)
        return GateOutput(
            self._all_slots(weights_BNA, attached),
            None if load_A is None else self._all_slots(load_A, attached),
        )

    def _all_slots(self, values_A: Tensor, attached: Sequence[str]) -> Tensor:
        """Put the attached slots' values [..., A] into columns of all slots [..., K]."""
        if len(attached) == len(self.slots):
            return values_A
        zero = torch.zeros_like(values_A[..., 0])
        return torch.stack(
            [values_A[..., attached.index(s)] if s in attached else zero for s in self.slots], -1
        )


def _smooth_load(clean_BNA: Tensor, noisy_BNA: Tensor, std_BNA: Tensor, top_k: int) -> Tensor:
    """Shazeer's load [A]: the probability of staying in the top k if only one's noise is redrawn.

    P_i = Phi((clean_i - kth_excluding_i(noisy)) / std_i), summed over tokens.
    """
    best_BNk = noisy_BNA.topk(top_k + 1, dim=-1).values
    if_in_BN1 = best_BNk[..., top_k : top_k + 1]  # the threshold for those now in the top k
    if_out_BN1 = best_BNk[..., top_k - 1 : top_k]
    threshold_BNA = torch.where(noisy_BNA > if_in_BN1, if_in_BN1, if_out_BN1)
    probability_BNA = torch.special.ndtr(((clean_BNA - threshold_BNA) / std_BNA).float())
    return probability_BNA.flatten(0, 1).sum(0)
