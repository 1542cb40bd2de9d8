"""The distillation loss (MoVE-KD, arXiv 2501.01709).

    l_ti = mean over channels of (v_i - Y_ti)^2          v the student's tokens, Y_t a teacher's
    l_t  = mean_i l_ti + sum_i W_i l_ti                  W the token weights; without: mean_i l_ti
    L_kd = mean over images of sum_t w_t l_t             w the teacher weights

Padded patches leave both sums; samples without an image leave the mean; the views of one image
share its place in it (`tove.modules.masked_mean`).

Shapes: B images (or views), T teachers, N patches, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tove.modules.masked_mean import mean_over_images, shares

__all__ = ["Distillation", "distillation_loss", "mean_over_tokens", "token_errors"]


@dataclass(frozen=True, slots=True)
class Distillation:
    """What the teachers say of one batch.

    Attributes:
        loss: L_kd, a scalar.
        by_teacher_BT: mean_i l_ti of every image and teacher, without weights or gradient.
    """

    loss: Tensor
    by_teacher_BT: Tensor


def token_errors(prediction_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Return the mean over channels of the squared difference, [B, N], at least in float32."""
    difference = prediction_BND - target_BND
    wide = torch.promote_types(difference.dtype, torch.float32)
    return difference.to(wide).square().mean(-1)


def mean_over_tokens(errors_BTN: Tensor, valid_BN: Tensor | None = None) -> Tensor:
    """Return mean_i l_ti of every image and teacher [B, T], over the valid patches."""
    if valid_BN is None:
        return errors_BTN.mean(-1)
    return torch.einsum("btn,bn->bt", errors_BTN, shares(valid_BN, errors_BTN.dtype))


def distillation_loss(
    errors_BTN: Tensor,
    teacher_weights_BT: Tensor,
    token_weights_BN: Tensor | None = None,
    valid_BN: Tensor | None = None,
    weights_B: Tensor | None = None,
) -> Distillation:
    """Weigh the errors of tokens and teachers.

    Args:
        errors_BTN: l, of `token_errors`, one row a teacher.
        teacher_weights_BT: w.
        token_weights_BN: W, with 0 at padded patches; None leaves the second sum out.
        valid_BN: False for padded patches; None is none.
        weights_B: of every view in the mean over images, 0 for no image; None is 1 for all.
    """
    mean_BT = mean_over_tokens(errors_BTN, valid_BN)
    loss_BT = mean_BT
    if token_weights_BN is not None:
        weights_BN = token_weights_BN.to(errors_BTN.dtype)
        loss_BT = mean_BT + torch.einsum("btn,bn->bt", errors_BTN, weights_BN)
    loss_B = (teacher_weights_BT * loss_BT).sum(-1)
    return Distillation(mean_over_images(loss_B, weights_B), mean_BT.detach())
