"""What keeps MoLE's routers from using one expert alone (known from MoVE-KD's code only).

    pooled:         L = mean_b sum_e mean_li(p_lbie) mean_li(o_lbie)       o = onehot(argmax p)
    per_layer:      L = mean_b mean_l sum_e mean_i(p_lbie) mean_i(o_lbie)
    times_experts:  E times pooled

The onehot passes no gradient on. L lies in [1/E, 1] for routing that agrees with itself; 1/E is
even use. Means over positions i leave masked ones out, the mean over images b those that do not
count, as samples of text alone.

Shapes: L layers, B images, P positions, E experts.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tove.modules.masked_mean import mean_over_images, shares

__all__ = ["BalanceReading", "routing_balance"]

BalanceReading = Literal["pooled", "per_layer", "times_experts"]


def routing_balance(
    probabilities: Sequence[Tensor],
    reading: BalanceReading = "pooled",
    valid_BP: Tensor | None = None,
    weights_B: Tensor | None = None,
) -> Tensor:
    """Return L, a scalar.

    Args:
        probabilities: of every layer, [B, P, E] each, as `mole.record_routing` collects them.
        reading: which of the three.
        valid_BP: False for positions that are padding; None is all of them.
        weights_B: of every image, 0 for one that does not count; None is 1 for all.
    """
    p_LBPE = torch.stack(tuple(probabilities))
    top_LBP1 = p_LBPE.argmax(-1, keepdim=True)
    onehot_LBPE = torch.zeros_like(p_LBPE).scatter(-1, top_LBP1, 1.0)
    valid_BP = p_LBPE.new_ones(p_LBPE.shape[1:3]) if valid_BP is None else valid_BP
    share_BP = shares(valid_BP, p_LBPE.dtype)
    p_LBE = torch.einsum("lbpe,bp->lbe", p_LBPE, share_BP)
    onehot_LBE = torch.einsum("lbpe,bp->lbe", onehot_LBPE, share_BP)
    if reading == "per_layer":
        loss_B = (p_LBE * onehot_LBE).sum(-1).mean(0)
    else:
        loss_B = (p_LBE.mean(0) * onehot_LBE.mean(0)).sum(-1)
    if reading == "times_experts":
        loss_B = loss_B * p_LBPE.shape[-1]
    return mean_over_images(loss_B, weights_B)
