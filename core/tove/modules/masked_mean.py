"""Means of which some items do not count: padded tokens, samples without an image.

    mean = sum_v w_v x_v / sum_v w_v          over all views v of all ranks

w_v is 0 for what is no image (a sample of text alone), and 1 / n for each of the n views of one
image, so that an image cut into many tiles counts once.

Shapes: V views (or images), B images, N tokens.
"""

import torch
from torch import Tensor

from tove.modules.collectives import global_mean

__all__ = ["mean_over_images", "shares", "view_weights"]


def mean_over_images(values_V: Tensor, weights_V: Tensor | None = None) -> Tensor:
    """Average over the global batch; 0, with zero gradients, where nothing counts.

    Under torch.distributed the result is this rank's share times the number of ranks: DDP's mean
    of the ranks' gradients is then that of the global mean, however unlike the ranks' parts are.
    """
    weights_V = torch.ones_like(values_V) if weights_V is None else weights_V.to(values_V.dtype)
    return global_mean((values_V * weights_V).sum(), weights_V.sum())


def shares(valid_BN: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1 / (valid tokens of the image) for every valid token, 0 for the others, [B, N]."""
    valid_BN = valid_BN.to(dtype)
    return valid_BN / valid_BN.sum(-1, keepdim=True).clamp(min=1)


def view_weights(image_V: Tensor, num_images: int, counts_V: Tensor | None = None) -> Tensor:
    """Return 1 / (views of its image that count) for every view that counts, 0 for others, [V].

    Args:
        image_V: the number of the image that a view is of, below `num_images`.
        num_images: in this batch.
        counts_V: False for views that do not, such as a tile of padding alone; None is all.
    """
    ones_V = torch.ones_like(image_V, dtype=torch.float32)
    counts_V = ones_V if counts_V is None else counts_V.to(ones_V.dtype)
    views_B = ones_V.new_zeros(num_images).index_add(0, image_V, counts_V)
    return counts_V / views_B.clamp(min=1)[image_V]
