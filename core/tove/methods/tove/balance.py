"""The balance loss of the gate (Shazeer et al., arXiv 1701.06538).

    importance_k = sum over all tokens of g_k       over the GLOBAL batch, attached experts only
    load_k       = sum over all tokens of P(k is among the top k under new noise)     (smooth load)
    L_balance    = CV^2(importance) + CV^2(load),   CV^2(x) = var(x) / (mean(x)^2 + eps)

Shapes: B batch, N tokens, K all slots.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from tove.methods.tove.gate import GateOutput
from tove.modules.collectives import global_sum

__all__ = ["balance_loss", "squared_variation"]


def squared_variation(x: Tensor, eps: float = 1e-10) -> Tensor:
    """Return CV^2(x) = var(x) / (mean(x)^2 + eps), with the population variance."""
    return x.var(correction=0) / (x.mean().square() + eps)


def balance_loss(gate: GateOutput, slots: Sequence[str], detached: Collection[str] = ()) -> Tensor:
    """Return CV^2 of importance (and of load, where there is one) over attached experts.

    Importance is that of the global batch: under torch.distributed it is summed over all ranks,
    and gradients are right after DDP has averaged them.

    Args:
        gate: the gate's output for this rank's batch.
        slots: the slot of every column.
        detached: slots that take no part.
    """
    columns = [column for column, slot in enumerate(slots) if slot not in detached]
    importance_K = global_sum(_wide(gate.weights).flatten(0, -2).sum(0))
    loss = importance_K.new_zeros(())
    if len(columns) < 2:
        return loss
    loss = squared_variation(torch.stack([importance_K[c] for c in columns]))
    if gate.load is not None:
        load_K = global_sum(_wide(gate.load))
        loss = loss + squared_variation(torch.stack([load_K[c] for c in columns]))
    return loss


def _wide(x: Tensor) -> Tensor:
    """Sums over thousands of tokens need more digits than half precision has."""
    return x if x.dtype == torch.float64 else x.float()
