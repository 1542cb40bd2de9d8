"""Which patches of a padded image show the image.

A patch counts where its centre lies in the image: what is half border is as much image as not.

Shapes: B images, N = h * w patches, row by row.
"""

import torch
from torch import Tensor

__all__ = ["patches_with_content"]


def patches_with_content(boxes_B4: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return True for patches of the image, False for those of its border, [B, N].

    Args:
        boxes_B4: where the image lies in the padded one: top, left, bottom, right, as shares of
            height and width; (0, 0, 1, 1) is no border.
        grid: of the patches, (height, width).
    """
    top_B1, left_B1, bottom_B1, right_B1 = boxes_B4.split(1, dim=1)
    y_h, x_w = (
        (torch.arange(side, device=boxes_B4.device, dtype=boxes_B4.dtype) + 0.5) / side
        for side in grid
    )
    rows_Bh = (top_B1 <= y_h) & (y_h < bottom_B1)
    columns_Bw = (left_B1 <= x_w) & (x_w < right_B1)
    return (rows_Bh[:, :, None] & columns_Bw[:, None, :]).flatten(1)
