"""Surface normals: where every place of the scene faces, from the metric depth of its cells.

Metric depth d and a camera of focal length f put pixel (u, v), counted from the centre, at the
point d * (u/f, v/f, 1). With the inverse depth w = 1/d, the cross product of that surface's two
tangents is, up to a positive factor,

    n = -(w_u, w_v, (w - u w_u - v w_v) / f)

towards the camera: x to the right, y down, z away, so a wall that one looks at straight has
(0, 0, -1). On a plane w is linear in u and v, and central differences of its means over cells are
exact; scale drops out. Means also keep out the noise of single pixels and most of the rounding of a
network in bfloat16: it costs the normals of planes a degree on average.

f comes of the field of view, which an image does not tell: the camera of the weights' training
images is assumed. Another one makes all slopes steeper, or all flatter, by one factor.

Shapes: B batch, C = 3 channels, H x W the image, h x w the tokens' grid, N = h * w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_experts.depth import build_depth_model
from tove_experts.grids import map_to_grid
from tove_plugins import ExpertSpec

__all__ = ["NormalExpert", "normals_of"]

NEAREST = 1e-2
"""Metres; no camera is nearer, and the inverse of a depth that rounds to zero is not finite."""


class NormalExpert(nn.Module):
    """Normalised images [B, 3, H, W] -> unit normals [B, h*w, 3].

    Args:
        spec: What this build takes and gives, as `catalogue.maps.resolve_normals` says.
        weights: A folder that transformers wrote; None for random ones.
        config: What config.json holds of the default weights; all of it for random ones.
        stride: Pixels of the image that a token stands for.
        field_of_view: Degrees that the image's shorter side spans.
        image_size: One side or (height, width) in pixels, to be divided by the patch and the
            stride; stride and size stand in the spec.

    Raises:
        ValueError: The weights are of another model.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        config: Mapping[str, Any],
        stride: int = 7,
        field_of_view: float = 46.8,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.model = build_depth_model(weights, config)
        self.grid = spec.tokens.grid
        half = math.tan(math.radians(field_of_view) / 2)
        self.focal = min(spec.image.size) / stride / 2 / half  # in cells

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the tokens [B, N, 3]."""
        depth_BHW = self.model(pixel_values=images_BCHW).predicted_depth
        depth_BHW = depth_BHW.to(torch.promote_types(depth_BHW.dtype, torch.float32))
        inverse_BN1 = map_to_grid(1 / depth_BHW.clamp(min=NEAREST).unsqueeze(1), self.grid)
        inverse_Bhw = inverse_BN1.squeeze(2).unflatten(1, self.grid)
        normals_B3hw = normals_of(inverse_Bhw, self.focal)
        return normals_B3hw.flatten(2).transpose(1, 2).to(images_BCHW.dtype)


def normals_of(inverse_depth_Bhw: Tensor, focal: float) -> Tensor:
    """Give the unit normals of a map of inverse depth, towards the camera.

    Args:
        inverse_depth_Bhw: In any unit, above zero.
        focal: Focal length of the camera, in cells of the map.

    Returns:
        Normals [B, 3, h, w]: to the right, down, away.
    """
    settings: Any = {"device": inverse_depth_Bhw.device, "dtype": inverse_depth_Bhw.dtype}
    height, width = inverse_depth_Bhw.shape[1:]
    v_h1 = (torch.arange(height, **settings) - (height - 1) / 2).unsqueeze(1)
    u_w = torch.arange(width, **settings) - (width - 1) / 2
    down_Bhw, right_Bhw = torch.gradient(inverse_depth_Bhw, dim=(1, 2))
    away_Bhw = (inverse_depth_Bhw - u_w * right_Bhw - v_h1 * down_Bhw) / focal
    return F.normalize(-torch.stack([right_Bhw, down_Bhw, away_Bhw], dim=1), dim=1)
