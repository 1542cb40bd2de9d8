"""Segmentation through transformers: SegFormer, Mask2Former and the image encoder of SAM.

Each exposes one of several `features` (the default first), resampled to tokens of `stride` pixels:

    SegFormer    decoder        its four stages, fused: what the classifier of every pixel reads
                 backbone       the four stages of the encoder, side by side
                 map            probability of every class
    Mask2Former  pixel_decoder  the embedding of every pixel, which each mask is a product with
                 backbone       the four stages of the backbone, side by side
                 queries        what the object queries hold, spread over their masks
                 map            how far masks of every class cover the cell
    SAM          neck           what the mask decoder reads
                 backbone       the last layer of the transformer, before the neck

The defaults are dense, see things and stuff alike, and carry all that the heads know of a place,
in fewer channels than the backbone. Only the part of the model that is needed is kept and run.
Shapes: B batch, C classes, D width, N tokens, Q object queries, h x w a map of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_experts.exposed import build_model, expose, library_config, taken_image
from tove_experts.grids import map_to_grid, maps_to_grid, masks_to_grid
from tove_plugins import ExpertSpec

__all__ = [
    "Mask2FormerExpert",
    "SamExpert",
    "SegformerExpert",
    "resolve_mask2former",
    "resolve_sam",
    "resolve_segformer",
]


class SegformerExpert(nn.Module):
    """Images [B, 3, H, W], normalised -> tokens [B, N, D] of a SegFormer.

    Args:
        spec: The spec of this build; its grid is the tokens'.
        weights: The folder that `save_pretrained` wrote, or None for random weights.
        features: "decoder", "backbone" or "map".
        stride: Pixels per token; settled in the spec.
        image_size: One side or (height, width); settled in the spec.
        config: Architecture of a build without weights, as config.json would hold it.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        features: str = "decoder",
        stride: int = 16,
        image_size: int | Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.features = spec.tokens.grid, features
        model: Any = build_model("SegformerForSemanticSegmentation", weights, config or {})
        if features == "decoder":
            model.decode_head.classifier = nn.Identity()  # its input is then what the head gives
        self.model = model.segformer if features == "backbone" else model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps images [B, 3, H, W] to tokens [B, N, D]."""
        if self.features == "backbone":
            stages = self.model(images_BCHW, output_hidden_states=True).hidden_states
            return maps_to_grid(stages, self.grid)
        map_BDhw = self.model(images_BCHW).logits
        if self.features == "map":
            map_BDhw = map_BDhw.softmax(dim=1)
        return map_to_grid(map_BDhw, self.grid)


def resolve_segformer(
    spec: ExpertSpec,
    weights: Path | None,
    features: str = "decoder",
    stride: int = 16,
    image_size: int | Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Give the spec of a `SegformerExpert` of the same arguments."""
    architecture = library_config(weights, config or {}, ("segformer",))
    widths = {
        "decoder": architecture.decoder_hidden_size,
        "backbone": sum(architecture.hidden_sizes),
        "map": architecture.num_labels,
    }
    return expose(spec, taken_image(spec, weights, image_size), features, stride, widths)


class Mask2FormerExpert(nn.Module):
    """Images [B, 3, H, W], normalised -> tokens [B, N, D] of a Mask2Former.

    Args:
        spec: The spec of this build; its grid is the tokens'.
        weights: The folder that `save_pretrained` wrote, or None for random weights.
        features: "pixel_decoder", "backbone", "queries" or "map".
        stride: Pixels per token; settled in the spec.
        image_size: One side or (height, width); settled in the spec.
        config: Architecture of a build without weights, as config.json would hold it.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        features: str = "pixel_decoder",
        stride: int = 16,
        image_size: int | Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.features = spec.tokens.grid, features
        model: Any = build_model("Mask2FormerForUniversalSegmentation", weights, config or {})
        pixel_level = model.model.pixel_level_module
        self.model = {"pixel_decoder": pixel_level, "backbone": pixel_level.encoder}.get(
            features, model
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps images [B, 3, H, W] to tokens [B, N, D]."""
        found = self.model(images_BCHW)
        if self.features == "pixel_decoder":
            return map_to_grid(found.decoder_last_hidden_state, self.grid)
        if self.features == "backbone":
            return maps_to_grid(found.feature_maps, self.grid)
        scores_BQC = found.class_queries_logits.softmax(dim=-1)[..., :-1]  # the last is "nothing"
        masks_BQhw = found.masks_queries_logits.sigmoid()
        if self.features == "queries":
            queries_BQD = found.transformer_decoder_last_hidden_state
            return masks_to_grid(masks_BQhw, scores_BQC, queries_BQD, self.grid)
        return map_to_grid(torch.einsum("bqc,bqhw->bchw", scores_BQC, masks_BQhw), self.grid)


def resolve_mask2former(
    spec: ExpertSpec,
    weights: Path | None,
    features: str = "pixel_decoder",
    stride: int = 16,
    image_size: int | Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Give the spec of a `Mask2FormerExpert` of the same arguments."""
    architecture = library_config(weights, config or {}, ("mask2former",))
    backbone = architecture.backbone_config
    if backbone.model_type != "swin":
        raise ValueError(
            f"This Mask2Former has a backbone of model_type {backbone.model_type!r}, and the "
            "expert reads Swin's, which all the published ones have; choose other weights."
        )
    widths = {
        "pixel_decoder": architecture.mask_feature_size,
        "backbone": sum(backbone.embed_dim * 2**stage for stage in range(len(backbone.depths))),
        "queries": architecture.hidden_dim,
        "map": architecture.num_labels,
    }
    return expose(spec, taken_image(spec, weights, image_size), features, stride, widths)


class SamExpert(nn.Module):
    """Images [B, 3, H, W], normalised -> tokens [B, N, D] of SAM's image encoder.

    SAM takes one image size only, that of its position embeddings.

    Args:
        spec: The spec of this build; its grid is the tokens'.
        weights: The folder that `save_pretrained` of a SamModel or SamVisionModel wrote, or None
            for random weights.
        features: "neck" or "backbone".
        stride: Pixels per token; settled in the spec.
        config: Architecture of a build without weights, as config.json would hold it.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        features: str = "neck",
        stride: int = 16,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.features = spec.tokens.grid, features
        model: Any = build_model("SamVisionModel", weights, config or {})
        self.encoder = model.vision_encoder
        if features == "backbone":
            self.encoder.neck = nn.Identity()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps images [B, 3, H, W] to tokens [B, N, D]."""
        encoded = self.encoder(images_BCHW).last_hidden_state
        # The neck is channels-first, the transformer before it channels-last.
        map_BDhw = encoded.permute(0, 3, 1, 2) if self.features == "backbone" else encoded
        return map_to_grid(map_BDhw, self.grid)


def resolve_sam(
    spec: ExpertSpec,
    weights: Path | None,
    features: str = "neck",
    stride: int = 16,
    config: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Give the spec of a `SamExpert` of the same arguments."""
    architecture = library_config(weights, config or {}, ("sam", "sam_vision_model"))
    vision = getattr(architecture, "vision_config", architecture)
    widths = {"neck": vision.output_channels, "backbone": vision.hidden_size}
    return expose(spec, taken_image(spec, weights, vision.image_size), features, stride, widths)
