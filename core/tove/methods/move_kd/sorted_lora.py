"""A linear layer with one LoRA pair per expert, on tokens sorted by expert.

    u = A_e xd + a_e,   y = W x + b + s c (B_e u + b_e)    xd = kept x / (1 - p), e the token's

Written with its backward, for two reasons: every product of a low-rank pair is added in place to a
result that is there already, where autograd would make and sum copies as large as the FFN's hidden
state; and a segment of sorted tokens is a view. Both together are what keep the cost near that of
the plain layer.

Shapes: T tokens in the order of their experts, n of them an expert's, I and O the layer's width in
and out, E experts, R rank; a trailing 1 is a bias: u1 = (u, 1), B1 = (B, b).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["Permuted", "SortedLoRALinear", "draw_kept"]


def draw_kept(x: Tensor, dropout: float) -> tuple[Tensor, float]:
    """Return which numbers of x a dropout keeps, True or False, and what to scale them by.

    From 16 random bits a number, a tenth of the time that torch's own draw takes on a CPU, where it
    costs as much as a LoRA pair; the probability is therefore one of 65,536 steps.
    """
    dropped = round(dropout * 2**16)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),), device=x.device)
    kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
    return kept, 1 / (1 - dropped / 2**16)


class Permuted(torch.autograd.Function):
    """Rows in another order; backwards the order is undone, where autograd sums into zeros."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_T: Tensor, back_T: Tensor) -> Tensor:  # noqa: ANN401
        """Return x[order]; order[back] counts up."""
        ctx.save_for_backward(back_T)
        return x_TD.index_select(0, order_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradient of x."""
        (back_T,) = ctx.saved_tensors
        return g_TD.index_select(0, back_T), None, None


class SortedLoRALinear(torch.autograd.Function):
    """y = W x + b + s c (B_e (A_e xd + a_e) + b_e), see the module."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context
        x_TI: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        A_ERI: Tensor,
        A_bias_ER: Tensor,
        B1_ER1O: Tensor,
        chosen_T1: Tensor,
        kept: tuple[Tensor, float] | None,
        counts: Sequence[int],
        scale: float,
    ) -> Tensor:
        """Return y [T, O].

        Args:
            ctx: torch's.
            x_TI: the tokens, sorted by expert.
            weight_OI: W.
            bias_O: b.
            A_ERI: every expert's A.
            A_bias_ER: every expert's a.
            B1_ER1O: every expert's B, its bias in the last row.
            chosen_T1: c, what the expert's output is multiplied by.
            kept: of `draw_kept`, dropout of the pairs' input; None is no dropout.
            counts: tokens of every expert, in order; their sum is T.
            scale: s.
        """
        y_TO = F.linear(x_TI, weight_OI, bias_O)
        u1_TR1 = x_TI.new_ones(len(x_TI), B1_ER1O.shape[1])
        kept_TI, keep_scale = kept or (None, 1.0)
        for e, seg in _segments(counts):
            xd_nI = x_TI[seg] if kept_TI is None else torch.where(kept_TI[seg], x_TI[seg], 0)
            torch.addmm(A_bias_ER[e], xd_nI, A_ERI[e].T, alpha=keep_scale, out=u1_TR1[seg, :-1])
            y_nO = y_TO[seg]
            torch.addmm(y_nO, u1_TR1[seg] * chosen_T1[seg], B1_ER1O[e], alpha=scale, out=y_nO)
        ctx.save_for_backward(x_TI, weight_OI, A_ERI, B1_ER1O, chosen_T1, kept_TI, u1_TR1)
        ctx.counts, ctx.scale, ctx.keep_scale = counts, scale, keep_scale
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TO: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of forward's arguments."""
        x_TI, weight_OI, A_ERI, B1_ER1O, chosen_T1, kept_TI, u1_TR1 = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad_x_TI = g_TO @ weight_OI if needs[0] else None
        grad_weight_OI = g_TO.T @ x_TI if needs[1] else None
        grad_bias_O = g_TO.sum(0) if needs[2] else None
        grad_A, grad_a = torch.empty_like(A_ERI), A_ERI.new_empty(A_ERI.shape[:2])
        grad_B1, grad_chosen_T1 = torch.empty_like(B1_ER1O), torch.empty_like(chosen_T1)
        for e, seg in _segments(ctx.counts):
            g_nO, u1_nR1, chosen_n1 = g_TO[seg], u1_TR1[seg], chosen_T1[seg]
            torch.mm((u1_nR1 * chosen_n1).T, g_nO, out=grad_B1[e])
            grad_u1_nR1 = torch.mm(g_nO, B1_ER1O[e].T).mul_(ctx.scale)
            torch.sum(grad_u1_nR1 * u1_nR1, 1, keepdim=True, out=grad_chosen_T1[seg])
            grad_u_nR = grad_u1_nR1[:, :-1] * chosen_n1
            torch.sum(grad_u_nR, 0, out=grad_a[e])
            grad_u_nR *= ctx.keep_scale
            xd_nI = x_TI[seg] if kept_TI is None else torch.where(kept_TI[seg], x_TI[seg], 0)
            torch.mm(grad_u_nR.T, xd_nI, out=grad_A[e])
            if grad_x_TI is None:
                continue
            grad_x_nI = grad_x_TI[seg]
            if kept_TI is None:
                torch.addmm(grad_x_nI, grad_u_nR, A_ERI[e], out=grad_x_nI)
            else:
                grad_x_nI.add_((grad_u_nR @ A_ERI[e]).mul_(kept_TI[seg]))
        grad_B1.mul_(ctx.scale)
        grads = (grad_x_TI, grad_weight_OI, grad_bias_O, grad_A, grad_a, grad_B1, grad_chosen_T1)
        return (*grads, None, None, None)


def _segments(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield every expert's number and the rows of its tokens."""
    start = 0
    for expert, count in enumerate(counts):
        yield expert, slice(start, start + count)
        start += count
