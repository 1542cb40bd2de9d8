"""The ops of `mmcv._ext` that frozen detectors need, by torchvision and plain torch.

Loaded under the name `mmcv._ext` by `fallback` where the compiled extension is missing. Names,
arguments and results are the extension's: most functions write into an `output` that mmcv hands
over. All run on the device of their inputs. Half precisions are computed in float32, since
torchvision's kernels know no bfloat16. Gradients are not served: frozen experts need none.

Shapes: N boxes, B batch, C channels, h x w a map, Q queries, H heads, L levels, P points, D width.
"""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Give every other op of the extension as a function that tells why it cannot be called."""
    if name.startswith("__"):
        raise AttributeError(name)

    def not_served(*_: object, **__: object) -> NoReturn:
        reason = (
            "gradients are not served, as frozen experts need none"
            if "_backward" in name
            else f"its fallback serves {', '.join(_SERVED)}"
        )
        raise NotImplementedError(
            f"mmcv has no compiled extension here, so its op '{name}' cannot run; {reason}. With a "
            "C++ compiler (and nvcc for a GPU) mmcv builds it: pip install --force-reinstall "
            "--no-deps --no-build-isolation --no-binary onedl-mmcv onedl-mmcv"
        )

    return not_served


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Give the indices of the boxes [N, 4] that are kept, best first.

    Args:
        boxes: Corners x1, y1, x2, y2.
        scores: [N].
        iou_threshold: Above it the lower score goes.
        offset: 1 where x2, y2 are the last pixel within the box, else 0.
    """
    corners_N4 = _wide(boxes)
    if offset:
        corners_N4 = torch.cat((corners_N4[:, :2], corners_N4[:, 2:] + offset), dim=1)
    # The extension compares in float32: an IoU of exactly 0.6 is not above 0.6.
    threshold = float(np.float32(iou_threshold))
    return torchvision.ops.nms(corners_N4, scores.to(corners_N4.dtype), threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Decay the scores of overlapping boxes one best box at a time; on the CPU, as mmcv does.

    Args:
        boxes: Corners [N, 4].
        scores: [N].
        dets: [N, 5]; its first rows become the kept boxes with their decayed scores.
        iou_threshold: From it on methods 0 and 1 act.
        sigma: Of the Gaussian, method 2.
        min_score: Boxes whose score falls below it are dropped.
        method: 0 drops, 1 multiplies by 1 - IoU, 2 by exp(-IoU^2 / sigma).
        offset: As for `nms`.

    Returns:
        The indices of the kept boxes, in the order in which they were chosen.
    """
    sizes_N2 = boxes[:, 2:] - boxes[:, :2] + offset
    areas_N, scores_N = sizes_N2.prod(dim=1), scores.clone()
    left_M = torch.arange(len(boxes))
    kept: list[int] = []
    while len(left_M):
        place = int(scores_N[left_M].argmax())
        best = int(left_M[place])
        dets[len(kept), :4], dets[len(kept), 4] = boxes[best], scores_N[best]
        kept.append(best)
        left_M = torch.cat((left_M[:place], left_M[place + 1 :]))
        first_M2 = torch.maximum(boxes[best, :2], boxes[left_M, :2])
        last_M2 = torch.minimum(boxes[best, 2:], boxes[left_M, 2:])
        shared_M = (last_M2 - first_M2 + offset).clamp(min=0).prod(dim=1)
        iou_M = shared_M / (areas_N[best] + areas_N[left_M] - shared_M)
        if method == 2:
            decay_M = torch.exp(-iou_M.square() / sigma)
        else:
            lower_M = 1 - iou_M if method == 1 else torch.zeros_like(iou_M)
            decay_M = torch.where(iou_M >= iou_threshold, lower_M, 1)
        scores_N[left_M] *= decay_M
        left_M = left_M[scores_N[left_M] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average bilinear samples of a map [B, C, h, w] in each bin of boxes [N, 5].

    Args:
        input: The map.
        rois: Index in the batch, then corners in pixels of the image.
        output: [N, C, aligned_height, aligned_width], written.
        argmax_y: Of max pooling, which is not served.
        argmax_x: The same.
        aligned_height: Bins in a column.
        aligned_width: Bins in a row.
        spatial_scale: The map's pixels per pixel of the image.
        sampling_ratio: Samples along each side of a bin; 0 for as many as it has pixels.
        pool_mode: 1 averages, 0 would take the maximum.
        aligned: Whether pixel centres are at half coordinates.
    """
    if pool_mode == 0:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' needs mmcv's compiled extension, which is missing here; "
            "use pool_mode='avg', the default, or install an mmcv with compiled ops."
        )
    map_BChw = _wide(input)
    bins = (aligned_height, aligned_width)
    rois_N5 = rois.to(map_BChw.dtype)
    output.copy_(
        torchvision.ops.roi_align(
            map_BChw, rois_N5, bins, spatial_scale, sampling_ratio, bool(aligned)
        )
    )


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolve at displaced places (DCN), writing into `output` [B, C_out, h, w].

    The groups and the kernel's size are in the shapes of `weight` and `offset`; `columns`, `ones`
    and `im2col_step` are the extension's working memory.
    """
    step = ((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(_deform_conv(input, offset, weight, None, None, *step))


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolve at displaced and weighted places (DCNv2), writing into `output` [B, C_out, h, w].

    The groups and the kernel's size are in the shapes of `weight` and `offset`; `columns` and
    `ones` are the extension's working memory.
    """
    step = ((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    output.copy_(_deform_conv(input, offset, weight, bias if with_bias else None, mask, *step))


def _deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    return torchvision.ops.deform_conv2d(
        _wide(input),
        _wide(offset),
        _wide(weight),
        None if bias is None else _wide(bias),
        stride=stride,
        padding=padding,
        dilation=dilation,
        mask=None if mask is None else _wide(mask),
    )


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend to a few sampled points of every level (Deformable DETR, arXiv:2010.04159).

    Args:
        value: [B, sum of h * w, H, D].
        value_spatial_shapes: (h, w) of each level, [L, 2].
        value_level_start_index: Where each level begins in `value`, [L].
        sampling_locations: (x, y) in units of the image, [B, Q, H, L, P, 2].
        attention_weights: [B, Q, H, L, P].
        im2col_step: Of the CUDA kernel.

    Returns:
        [B, Q, H * D].
    """
    batch, _, heads, width = value.shape
    queries = sampling_locations.shape[1]
    places = _wide(2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # [B*H, Q, L, P, 2]
    weights = _wide(attention_weights).transpose(1, 2).flatten(0, 1).unsqueeze(1)
    out = places.new_zeros(batch * heads, width, queries)
    shapes = value_spatial_shapes.tolist()  # the sizes come as a tensor only
    for level, part in enumerate(_wide(value).split([h * w for h, w in shapes], dim=1)):
        maps = part.flatten(2).transpose(1, 2).reshape(-1, width, *shapes[level])
        sampled = F.grid_sample(maps, places[:, :, level], align_corners=False)
        out += (sampled * weights[:, :, :, level]).sum(dim=-1)
    return out.view(batch, heads * width, queries).transpose(1, 2).to(value.dtype)


def get_compiler_version() -> str:
    """Tell reports of the environment that there is none."""
    return "none: mmcv has no compiled extension"


def get_compiling_cuda_version() -> str:
    """Tell reports of the environment that there is none."""
    return "none: mmcv has no compiled extension"


_SERVED = (
    "nms",
    "softnms",
    "roi_align_forward",
    "deform_conv_forward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_forward",
)
