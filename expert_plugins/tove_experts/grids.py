"""From boxes, masks and feature maps to a dense token grid, for every expert that predicts them.

An expert's tokens lie on a grid of h x w cells that tile the image. Objects become a mixture in
every cell n, of what their queries hold:

    a_qn = c_q * (share of cell n that object q covers)      c_q: its highest class score
    t_n  = sum_q a_qn f_q / max(1, sum_q a_qn)

A cell that one sure object fills has that object's feature; one that nothing covers is zero. Below
a total of 1 the sum is not normalised, so that many unsure objects cannot pass for a sure one.
Shares are areas, exact for boxes and for masks of any resolution. Nothing here waits for a device
or depends on values, so all of it runs on "meta" and under torch.compile.

Shapes: B batch, Q objects, C classes, D width, H x W a map, N = h * w cells, row by row.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BoxForm", "boxes_to_grid", "map_to_grid", "maps_to_grid", "masks_to_grid"]

BoxForm = Literal["cxcywh", "xyxy"]


def boxes_to_grid(
    boxes_BQ4: Tensor,
    scores_BQC: Tensor,
    features_BQD: Tensor,
    grid: tuple[int, int],
    form: BoxForm = "cxcywh",
) -> Tensor:
    """Spread the features of boxes over the cells that they cover.

    Args:
        boxes_BQ4: In units of the image's width and height, so [0, 1] within it. What lies
            outside counts for nothing, nor does a box whose end is before its start.
        scores_BQC: Probabilities in [0, 1], without a "no object" class; not logits. C = 1 does.
            Padding is a box of score 0.
        features_BQD: What each box stands for.
        grid: (rows, columns) of the tokens.
        form: "cxcywh" for centre and size, "xyxy" for two corners.

    Returns:
        Tokens [B, N, D] in the features' dtype.
    """
    # bf16 has 8 bits, less than a thousandth of an image: geometry is done in float32 or better.
    boxes_BQ4 = boxes_BQ4.to(torch.promote_types(boxes_BQ4.dtype, torch.float32))
    first_BQ2, second_BQ2 = boxes_BQ4[..., :2], boxes_BQ4[..., 2:]
    if form == "cxcywh":
        first_BQ2, second_BQ2 = first_BQ2 - second_BQ2 / 2, first_BQ2 + second_BQ2 / 2
    columns_BQw = _cell_shares(first_BQ2[..., 0], second_BQ2[..., 0], grid[1])
    rows_BQh = _cell_shares(first_BQ2[..., 1], second_BQ2[..., 1], grid[0])
    share_BQN = (rows_BQh.unsqueeze(-1) * columns_BQw.unsqueeze(-2)).flatten(2)
    return _mix(share_BQN, scores_BQC, features_BQD)


def masks_to_grid(
    masks_BQHW: Tensor, scores_BQC: Tensor, features_BQD: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Spread the features of masks over the cells that they cover.

    Args:
        masks_BQHW: Membership of every pixel in [0, 1], the sigmoid of mask logits.
        scores_BQC: Probabilities in [0, 1], without a "no object" class; not logits. C = 1 does.
        features_BQD: What each mask stands for.
        grid: (rows, columns) of the tokens.

    Returns:
        Tokens [B, N, D] in the features' dtype.
    """
    share_BQN = map_to_grid(masks_BQHW, grid).transpose(1, 2)
    return _mix(share_BQN, scores_BQC, features_BQD)


def map_to_grid(map_BDHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a channels-first map to a token grid.

    Where the grid is coarser a token is the mean over its cell's area, also of pixels that two
    cells share; where it is finer tokens are interpolated linearly.

    Args:
        map_BDHW: The map.
        grid: (rows, columns) of the tokens.

    Returns:
        Tokens [B, N, D], row by row, in the map's dtype.
    """
    height, width = map_BDHW.shape[-2:]
    finer = (max(height, grid[0]), max(width, grid[1]))
    if finer != (height, width):
        map_BDHW = F.interpolate(map_BDHW, size=finer, mode="bilinear", align_corners=False)
    if finer[0] != grid[0]:
        map_BDHW = _area_matrix(finer[0], grid[0], map_BDHW) @ map_BDHW
    if finer[1] != grid[1]:
        map_BDHW = map_BDHW @ _area_matrix(finer[1], grid[1], map_BDHW).T
    return map_BDHW.flatten(2).transpose(1, 2)


def maps_to_grid(maps_BDHW: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Resample the levels of a pyramid to one grid and join them along the width.

    Args:
        maps_BDHW: Maps of any widths and sizes, over the same image.
        grid: (rows, columns) of the tokens.

    Returns:
        Tokens [B, N, D_1 + D_2 + ...], the levels in the order given.
    """
    return torch.cat([map_to_grid(map_BDHW, grid) for map_BDHW in maps_BDHW], dim=-1)


def _mix(share_BQN: Tensor, scores_BQC: Tensor, features_BQD: Tensor) -> Tensor:
    """Give each cell the mixture of features that this module's equation tells."""
    amount_BQN = (share_BQN * scores_BQC.amax(dim=-1, keepdim=True)).to(features_BQD.dtype)
    total_BN1 = amount_BQN.sum(dim=1).unsqueeze(-1)
    return (amount_BQN.transpose(1, 2) @ features_BQD) / total_BN1.clamp(min=1)


def _cell_shares(start_BQ: Tensor, end_BQ: Tensor, cells: int) -> Tensor:
    """Give the share of each of `cells` equal parts of [0, 1] that an interval covers, [B, Q, n].

    Two ends of one axis; the share of a cell's area is the product over both axes.
    """
    edges = torch.arange(cells + 1, device=start_BQ.device, dtype=start_BQ.dtype)
    return _overlap(start_BQ[..., None] * cells, end_BQ[..., None] * cells, edges[:-1], edges[1:])


def _area_matrix(pixels: int, cells: int, like: Tensor) -> Tensor:
    """Give the weights [cells, pixels] by which a row of pixels is averaged over each cell."""
    # In units of 1 / (pixels * cells) every edge is a whole number, so weights are exact.
    dtype = torch.promote_types(like.dtype, torch.float32)
    starts_n1 = torch.arange(cells, device=like.device, dtype=dtype).unsqueeze(1) * pixels
    starts_m = torch.arange(pixels, device=like.device, dtype=dtype) * cells
    shared_nm = _overlap(starts_n1, starts_n1 + pixels, starts_m, starts_m + cells)
    return (shared_nm / pixels).to(like.dtype)


def _overlap(start: Tensor, end: Tensor, other_start: Tensor, other_end: Tensor) -> Tensor:
    return (torch.minimum(end, other_end) - torch.maximum(start, other_start)).clamp(min=0)
