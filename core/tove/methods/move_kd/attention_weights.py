"""Attention-guided weights of tokens and teachers (MoVE-KD, arXiv 2501.01709).

    a_hi = softmax_i(q_h . k_hi / sqrt(d_h))      the class token's row of one CLIP layer, head h
    token weights W_i, over the patches i:
        paper     a_i / sum_i a_i,  a = mean_h a_h        as_is   a_i
        per_head  mean_h (a_hi / sum_i a_hi)              released  softmax_i(a_i), nearly uniform
    teacher weights w_t, over the teachers but CLIP:
        paper     softmax_t(mean_i cls . Y_ti / sqrt(D)), without a gradient
        released  softmax_t(mean_i cls . Y_ti), with one; once more softmax where the batch's mean
                  of a weight exceeds .8
        uniform   1 / (T - 1)
    CLIP's own weight is fixed; the others share what it leaves.

The row is computed alone, from q_h . (W_h x_i + b_h) = (W_h^T q_h) . x_i + q_h . b_h, whose last
term is the same for all i and leaves the softmax. That is P numbers a head and no product of all
positions with W; and it stays in the tokens' own dtype, where eager attention would go through
float32. The layer itself can run on any fused kernel.

Shapes: B images, P = N + 1 positions (class first), N patches, D width, H heads, d a head's width,
T teachers.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.errors import ConfigError

__all__ = [
    "TeacherReading",
    "TokenReading",
    "class_attention",
    "teacher_weights",
    "token_weights",
    "with_clip_share",
]

TokenReading = Literal["paper", "as_is", "per_head", "released", "none"]
TeacherReading = Literal["paper", "released", "uniform"]

_SATURATED = 0.8  # the release softens its weights once more where one exceeds this


def class_attention(block: nn.Module, x_BPD: Tensor) -> Tensor:
    """Return the class token's attention in a CLIP block, [B, H, P].

    Args:
        block: a block of transformers' or open_clip's CLIP vision tower.
        x_BPD: what enters the block, class token first.

    Raises:
        ConfigError: the block is of neither library.
    """
    norm, num_heads, (q_weight_DD, q_bias_D), k_weight_DD = _query_and_key(block)
    x_BPD = norm(x_BPD)
    q_BHd = F.linear(x_BPD[:, 0], q_weight_DD, q_bias_D).unflatten(-1, (num_heads, -1))
    k_weight_HdD = k_weight_DD.unflatten(0, (num_heads, -1))
    by_head_BHD = torch.einsum("bhd,hdk->bhk", q_BHd, k_weight_HdD) * q_BHd.shape[-1] ** -0.5
    return (by_head_BHD @ x_BPD.transpose(1, 2)).softmax(-1)


def _query_and_key(block: Any) -> tuple[nn.Module, int, tuple[Tensor, Tensor], Tensor]:  # noqa: ANN401
    """Return a block's norm, its heads, the query's weight and bias, the key's weight."""
    attention = getattr(block, "self_attn", None)
    if attention is not None and hasattr(attention, "q_proj"):
        query, key = attention.q_proj, attention.k_proj
        return block.layer_norm1, attention.num_heads, (query.weight, query.bias), key.weight
    attention = getattr(block, "attn", None)
    if attention is not None and getattr(attention, "in_proj_weight", None) is not None:
        q_weight_DD, k_weight_DD, _ = attention.in_proj_weight.chunk(3)
        q_bias_D = attention.in_proj_bias.chunk(3)[0]
        return block.ln_1, attention.num_heads, (q_weight_DD, q_bias_D), k_weight_DD
    raise ConfigError(
        f"The class token's attention was asked of a {type(block).__name__}, but it is known of "
        "CLIP blocks of transformers (self_attn.q_proj) and open_clip (attn.in_proj_weight) only; "
        "set token_weight='none' for another student."
    )


def token_weights(
    attention_BHP: Tensor, reading: TokenReading = "paper", valid_BN: Tensor | None = None
) -> Tensor | None:
    """Return W [B, N] of the patches; None for "none".

    Args:
        attention_BHP: the class token's, over all positions, class first.
        reading: which of the four.
        valid_BN: False for padded patches: their weight becomes 0, and an image's other weights
            are scaled to the sum that they all had.
    """
    if reading == "none":
        return None
    patches_BHN = attention_BHP[..., 1:]
    if reading == "per_head":
        weights_BN = (patches_BHN / patches_BHN.sum(-1, keepdim=True)).mean(1)
    else:
        weights_BN = patches_BHN.mean(1)
    if reading == "paper":
        weights_BN = weights_BN / weights_BN.sum(-1, keepdim=True)
    elif reading == "released":
        weights_BN = weights_BN.softmax(-1)
    if valid_BN is not None:
        kept_BN = weights_BN * valid_BN
        kept_B1 = kept_BN.sum(-1, keepdim=True)
        share_B1 = weights_BN.sum(-1, keepdim=True) / torch.where(kept_B1 > 0, kept_B1, 1)
        weights_BN = kept_BN * share_B1
    return weights_BN


def teacher_weights(
    cls_BD: Tensor, adapted: Sequence[Tensor], reading: TeacherReading = "paper"
) -> Tensor:
    """Return w [B, T] of the teachers but CLIP; a row sums to 1.

    Args:
        cls_BD: the teacher CLIP's class token.
        adapted: Y of every teacher, [B, N, D] each, in CLIP's width and grid; not empty.
        reading: which of the three.
    """
    if reading == "uniform":
        return cls_BD.new_full((len(cls_BD), len(adapted)), 1 / len(adapted))
    mean_BTD = torch.stack([y_BND.mean(1) for y_BND in adapted], 1)
    scores_BT = torch.einsum("bd,btd->bt", cls_BD.to(mean_BTD.dtype), mean_BTD)
    if reading == "paper":
        return (scores_BT.detach() / cls_BD.shape[-1] ** 0.5).softmax(-1)
    once_BT = scores_BT.softmax(-1)
    # The release adds .2 to all weights of a row first, which a softmax does not see.
    saturated = once_BT.mean(0).max() > _SATURATED
    return torch.where(saturated, once_BT.softmax(-1), once_BT)


def with_clip_share(weights_BT: Tensor, share: float = 0.8) -> Tensor:
    """Put CLIP's fixed share before the other teachers' weights, which share the rest: [B, 1 + T].

    Args:
        weights_BT: of the teachers but CLIP; with none of them CLIP's weight is 1.
        share: of CLIP, in [0, 1].
    """
    share = share if weights_BT.shape[1] else 1.0
    clip_B1 = weights_BT.new_full((weights_BT.shape[0], 1), share)
    return torch.cat([clip_B1, (1 - share) * weights_BT], 1)
