"""Depth Anything and DPT: what a network that predicts depth knows of a place.

What is exposed is the option `features`:

    "decoder"   (default) the fused map that the depth head reads: the transformer's layers joined
                from coarse to fine, the one place where everything that the prediction rests on is
                together, and still features
    "backbone"  the last hidden state that the decoder reads, without its class token: more of what
                things are, less of how far
    "map"       the predicted depth, width 1

The decoder's map and the prediction are finer than the tokens: a token is the mean over its cell,
so every pixel counts and nothing is aliased, and (i, j) stays the same place. A relative depth is
defined up to scale and shift only, which differ from image to image, so the map is normalised per
image as in MiDaS's loss (Ranftl et al., 2020, eq. 5), metric depth likewise:

    t_n = (d_n - m) / s      m = median of d,   s = mean of |d - m|

Shapes: B batch, C = 3 channels, H x W the image, P patches and a class token before them, D width,
h x w the tokens' grid, N = h * w.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_experts.exposed import build_model, centre_kernels
from tove_experts.grids import map_to_grid
from tove_plugins import ExpertSpec

__all__ = ["DepthExpert", "build_depth_model"]

CLASSES = {
    "depth_anything": "DepthAnythingForDepthEstimation",
    "dpt": "DPTForDepthEstimation",
}

# The coarsest level has none before it to be joined to; DPT's published files lack this layer.
NEVER_RUN = "neck.fusion_stage.layers.0.residual_layer1"


class DepthExpert(nn.Module):
    """Normalised images [B, 3, H, W] -> tokens [B, h*w, D].

    Args:
        spec: What this build takes and gives, as `catalogue.depth.resolve` says.
        weights: A folder that transformers wrote; None for random ones.
        config: What config.json holds of the default weights; all of it for random ones.
        features: "decoder", "backbone" or "map".
        stride: Pixels of the image that a token stands for; the patch if None.
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
        features: str = "decoder",
        stride: int | None = None,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        model = build_depth_model(weights, config)
        if getattr(model.config, "is_hybrid", False):
            # It interpolates its positions like the others, behind a check of the trained size.
            model.dpt.embeddings.image_size = spec.image.size
        # The library's forward stays whole: its last parts hand on what they would have read.
        if features != "map":
            model.head = _HandOn(model.config.head_in_index if features == "decoder" else -1)
        if features == "backbone":
            model.neck = _HandOn()
        self.model, self.features, self.grid = model, features, spec.tokens.grid
        self.patches = _num_patches(spec.image.size, model.config)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the tokens [B, N, D]."""
        found = self.model(pixel_values=images_BCHW).predicted_depth
        if self.features == "backbone":
            patches_BDP = found[:, 1:].transpose(1, 2)
            return map_to_grid(patches_BDP.unflatten(2, self.patches), self.grid)
        if self.features == "decoder":
            return map_to_grid(found, self.grid)
        return _without_scale(map_to_grid(found.unsqueeze(1), self.grid))


def build_depth_model(weights: Path | None, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Load a model of transformers that predicts depth, or make one of random weights.

    Args:
        weights: A folder that transformers wrote; None for random ones.
        config: What config.json holds of the default weights; all of it for random ones.

    Raises:
        ValueError: The weights are of another model.
    """
    model: Any = build_model(CLASSES[config["model_type"]], weights, config, may_miss=NEVER_RUN)
    model.neck.fusion_stage.layers[0].residual_layer1 = nn.Identity()
    if weights is None:
        centre_kernels(model.neck.convs)
    return model


class _HandOn(nn.Module):
    """Stands where a part of the model was and gives what came in, or one entry of it.

    Args:
        index: Which entry; None gives them all.
    """

    def __init__(self, index: int | None = None) -> None:
        super().__init__()
        self.index = index

    def forward(self, maps: Sequence[Tensor], *sizes: int) -> Sequence[Tensor] | Tensor:
        """Give the input; the library passes the patches' rows and columns behind it."""
        return maps if self.index is None else maps[self.index]


def _num_patches(size: tuple[int, int], config: Any) -> tuple[int, int]:  # noqa: ANN401
    """Give rows and columns of patches of an image."""
    has_backbone = config.backbone_config is not None and not getattr(config, "is_hybrid", False)
    patch = config.backbone_config.patch_size if has_backbone else config.patch_size
    return size[0] // patch, size[1] // patch


def _without_scale(depth_BN1: Tensor) -> Tensor:
    """Take each image's own scale and shift out of its depth; a flat map becomes zero."""
    median_B11 = depth_BN1.median(dim=1, keepdim=True).values
    centred_BN1 = depth_BN1 - median_B11
    scale_B11 = centred_BN1.abs().mean(dim=1, keepdim=True)
    return centred_BN1 / scale_B11.clamp(min=torch.finfo(depth_BN1.dtype).tiny)
