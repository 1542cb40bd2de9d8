"""L_lm: the cross-entropy of what a language model is to say."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tove.modules.collectives import global_mean

__all__ = ["IGNORED", "text_loss"]

IGNORED = -100  # as everywhere in transformers


def text_loss(
    logits_BKV: Tensor,
    labels_BK: Tensor,
    loss_mean: Literal["tokens", "samples"],
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compare logits with the tokens that follow.

    The sum over this process's tokens (or samples) is divided by their mean number over processes,
    so that the gradient averaged by DDP is that of one process with the whole batch. A process
    without any label gives 0 and takes part in the mean.

    Args:
        logits_BKV: at K places.
        labels_BK: the next token at each place, `IGNORED` where it does not count.
        loss_mean: over "tokens" of the batch, or over "samples", each a mean over its tokens.
        label_smoothing: in [0, 1).

    Returns:
        A scalar.
    """
    losses_BK = F.cross_entropy(
        logits_BKV.flatten(0, 1).float(),
        labels_BK.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="none",
    ).view(labels_BK.shape)
    number_B = (labels_BK != IGNORED).sum(1)
    if loss_mean == "tokens":
        total, number = losses_BK.sum(), number_B.sum()
    else:
        total, number = (losses_BK.sum(1) / number_B.clamp(min=1)).sum(), (number_B > 0).sum()
    # With gradients it is training, where every process calls.
    return global_mean(total, number.to(total.dtype), ranks=torch.is_grad_enabled())
