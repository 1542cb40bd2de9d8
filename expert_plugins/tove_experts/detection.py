"""Detection through transformers: DETR and RT-DETR (also its second version, and D-FINE).

Each exposes one of several `features` (the default first), resampled to tokens of `stride` pixels:

    DETR     encoder   the last layer of the encoder, which every object query attends to
             backbone  the last stage of the backbone
             queries   what the object queries hold, spread over their boxes
    RT-DETR  encoder   the finest level of the hybrid encoder
             backbone  the stages that the encoder takes, side by side
             queries   what the object queries hold, spread over their boxes

The encoder is the default: it is dense, it has seen the whole image, and boxes and classes are read
from it, while queries leave background empty. RT-DETR fuses its coarser levels into the finest one,
so that level alone stands for all. Only the part of the model that is needed is kept and run.
Shapes: B batch, C classes, D width, N tokens, Q object queries, h x w a map of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_experts.exposed import build_model, expose, library_config, taken_image
from tove_experts.grids import boxes_to_grid, map_to_grid, maps_to_grid
from tove_plugins import ExpertSpec

__all__ = ["DetrExpert", "RTDetrExpert", "resolve_detr", "resolve_rtdetr"]

DETR_TYPES = ("detr",)
_FETCHES = "use_pretrained_backbone"
RTDETR_TYPES = ("rt_detr", "rt_detr_v2", "d_fine")


class DetrExpert(nn.Module):
    """Images [B, 3, H, W], normalised -> tokens [B, N, D] of a DETR.

    Args:
        spec: The spec of this build; its grid is the tokens'.
        weights: The folder that `save_pretrained` wrote, or None for random weights.
        features: "encoder", "backbone" or "queries".
        stride: Pixels per token; settled in the spec.
        image_size: One side or (height, width); settled in the spec.
        config: Architecture of a build without weights, as config.json would hold it.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        features: str = "encoder",
        stride: int = 32,
        image_size: int | Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.features = spec.tokens.grid, features
        # The checkpoint holds the backbone; transformers 4 would fetch that of ImageNet before it.
        fetches = hasattr(library_config(weights, config or {}, DETR_TYPES), _FETCHES)
        settings: dict[str, Any] = {_FETCHES: False} if fetches else {}
        model: Any = build_model("DetrForObjectDetection", weights, config or {}, **settings)
        if features == "queries":
            self.model = model
            return
        self.backbone = model.model.backbone
        if features == "encoder":
            self.projection, self.encoder = model.model.input_projection, model.model.encoder
            # transformers 5 has taken the positions out of the backbone.
            self.positions: Any = getattr(model.model, "position_embedding", None)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps images [B, 3, H, W] to tokens [B, N, D]."""
        if self.features == "queries":
            found = self.model(images_BCHW)
            scores_BQC = found.logits.softmax(dim=-1)[..., :-1]  # the last class is "no object"
            return boxes_to_grid(found.pred_boxes, scores_BQC, found.last_hidden_state, self.grid)
        found = self.backbone(images_BCHW, _whole(images_BCHW))
        levels, positions = found if isinstance(found, tuple) else (found, None)
        map_BDhw, mask_Bhw = levels[-1]
        if self.features == "encoder":
            if positions is None:
                settings = {"device": map_BDhw.device, "dtype": map_BDhw.dtype}
                positions = [self.positions(map_BDhw.shape, **settings, mask=mask_Bhw)]
            map_BDhw = self._encode(map_BDhw, positions[-1])
        return map_to_grid(map_BDhw, self.grid)

    def _encode(self, map_BDhw: Tensor, position_BDhw: Tensor) -> Tensor:
        """Run the encoder, without the mask of padding: there is none."""
        tokens_BMD = self.projection(map_BDhw).flatten(2).transpose(1, 2)
        position_BMD = position_BDhw.flatten(2).transpose(1, 2)
        called = "object_queries" if self.positions is None else "spatial_position_embeddings"
        encoded = self.encoder(inputs_embeds=tokens_BMD, **{called: position_BMD})
        encoded_BMD: Tensor = encoded.last_hidden_state
        return encoded_BMD.transpose(1, 2).unflatten(2, map_BDhw.shape[-2:])


def resolve_detr(
    spec: ExpertSpec,
    weights: Path | None,
    features: str = "encoder",
    stride: int = 32,
    image_size: int | Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Give the spec of a `DetrExpert` of the same arguments."""
    architecture = library_config(weights, config or {}, DETR_TYPES)
    widths = {
        "encoder": architecture.d_model,
        "backbone": _last_width(architecture),
        "queries": architecture.d_model,
    }
    return expose(spec, taken_image(spec, weights, image_size), features, stride, widths)


def _last_width(architecture: Any) -> int:  # noqa: ANN401
    """Give the width of the last stage of a DETR's backbone, which may be one of timm."""
    own = architecture.backbone_config
    if hasattr(own, "hidden_sizes"):
        return int(own.hidden_sizes[-1])
    import timm

    # transformers 5 names timm's network in a config of its own.
    name = architecture.backbone if own is None else own.backbone
    with torch.device("meta"):  # nothing but the shapes is wanted
        backbone: Any = timm.create_model(name, pretrained=False, features_only=True)
    return int(backbone.feature_info.channels()[-1])


class RTDetrExpert(nn.Module):
    """Images [B, 3, H, W], normalised -> tokens [B, N, D] of an RT-DETR, its v2 or a D-FINE.

    Args:
        spec: The spec of this build; its grid is the tokens'.
        weights: The folder that `save_pretrained` wrote, or None for random weights.
        features: "encoder", "backbone" or "queries".
        stride: Pixels per token; settled in the spec.
        image_size: One side or (height, width), multiples of 32; settled in the spec.
        config: Architecture of a build without weights, as config.json would hold it.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        features: str = "encoder",
        stride: int = 16,
        image_size: int | Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.features = spec.tokens.grid, features
        model: Any = build_model("AutoModelForObjectDetection", weights, config or {})
        if features == "queries":
            self.model = model
            return
        self.backbone = model.model.backbone
        if features == "encoder":
            self.projections = model.model.encoder_input_proj
            self.encoder = model.model.encoder

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Maps images [B, 3, H, W] to tokens [B, N, D]."""
        if self.features == "queries":
            found = self.model(images_BCHW)
            scores_BQC = found.logits.sigmoid()  # every class by itself, none for "no object"
            return boxes_to_grid(found.pred_boxes, scores_BQC, found.last_hidden_state, self.grid)
        levels = [level for level, _ in self.backbone(images_BCHW, _whole(images_BCHW))]
        if self.features == "backbone":
            return maps_to_grid(levels, self.grid)
        projected = [
            projection(level) for projection, level in zip(self.projections, levels, strict=True)
        ]
        return map_to_grid(self.encoder(projected).last_hidden_state[0], self.grid)


def resolve_rtdetr(
    spec: ExpertSpec,
    weights: Path | None,
    features: str = "encoder",
    stride: int = 16,
    image_size: int | Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Give the spec of an `RTDetrExpert` of the same arguments."""
    architecture = library_config(weights, config or {}, RTDETR_TYPES)
    widths = {
        "encoder": architecture.encoder_hidden_dim,
        "backbone": sum(architecture.encoder_in_channels),
        "queries": architecture.d_model,
    }
    image = taken_image(spec, weights, image_size)
    coarsest = max(architecture.feat_strides)
    if any(side % coarsest for side in image.size):
        raise ValueError(
            f"An image of {image.size[0]} x {image.size[1]} pixels does not fit '{spec.name}', "
            f"whose levels are of stride {', '.join(map(str, architecture.feat_strides))}; give "
            f"an image_size that divides by {coarsest}."
        )
    return expose(spec, image, features, stride, widths)


def _whole(images_BCHW: Tensor) -> Tensor:
    """Give the mask that the library wants of the pixels that are no padding: all, [B, H, W]."""
    return torch.ones_like(images_BCHW[:, 0])
