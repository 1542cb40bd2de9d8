"""Vision towers of contrastive models (CLIP, SigLIP, EVA-CLIP, ConvNeXt), through open_clip.

    ViT towers, open_clip's own and timm's:    t = patch tokens that the tower pools, normed
    convolutional and hierarchical towers:     t = map of the last stage, row by row

These are the tokens before pooling: what was trained by matching texts with their average, their
class token or an attention over them. The class token is dropped. `layer` takes an earlier block
or stage as it leaves it. Only the vision tower is built and read from the file; what lies above
the taken layer is dropped after loading.

Shapes: B batch, H x W the image, h x w the grid, N = h * w tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_experts.hf import as_size
from tove_experts.open_clip_models import (
    CONFIG,
    Architecture,
    load_vision,
    published_image,
    published_weights,
    read_architecture,
    read_folder_image,
)
from tove_experts.timm_backbone import TimmTower, measure, resize
from tove_plugins import ExpertSpec, ImageSpec, Weights

__all__ = ["ContrastiveTower", "resolve"]


class ContrastiveTower(nn.Module):
    """The vision tower of a model of open_clip as an expert.

    Args:
        spec: What this build promises, as `resolve` gave it.
        weights: A weights file, or a folder with open_clip_config.json; None draws them at random.
        model: open_clip's name of the architecture; not needed for a folder.
        tag: open_clip's name of published weights, which `resolve` turns into their place.
        layer: Index of a block or stage in place of the final tokens.
        image_size: Side, or (height, width), in pixels, in place of the architecture's; it stands
            in the spec.
        tower: Changes to the architecture: of open_clip's vision config, or, where the tower is
            timm's, of timm.create_model.

    Raises:
        ValueError: open_clip has no such model, or the weights are not its.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None = None,
        model: str | None = None,
        tag: str | None = None,
        layer: int | None = None,
        image_size: int | Sequence[int] | None = None,
        tower: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        architecture = read_architecture(model, tag, weights)
        visual = _build(architecture, spec.image.size, tower)
        if weights is not None:
            load_vision(visual, weights, architecture.name)
        self.tower = _cut(visual, spec.image.size, layer)
        self.eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to tokens [B, N, D]."""
        map_BDhw: Tensor = self.tower(images_BCHW)
        return map_BDhw.flatten(2).transpose(1, 2)


class OpenClipTower(nn.Module):
    """A vision tower of open_clip's own, ViT or ResNet, cut off above one of its feature maps.

    Args:
        visual: The tower; it is changed in place.
        layer: Index of the block or stage; None for the tokens that it pools.

    Raises:
        ValueError: There is no such layer.
    """

    def __init__(self, visual: Any, layer: int | None) -> None:  # noqa: ANN401 - not typed
        super().__init__()
        is_vit = hasattr(visual, "ln_post")
        num_maps = len(visual.transformer.resblocks) if is_vit else 5
        layer_or_last = -1 if layer is None else layer
        if not -num_maps <= layer_or_last < num_maps:
            raise ValueError(
                f"layer is {layer}, and this {type(visual).__name__} of open_clip has {num_maps}; "
                f"give one from {-num_maps} to {num_maps - 1}, or None for the final tokens."
            )
        self.index = layer_or_last % num_maps
        # An attentional pooler (CoCa) and some others norm after pooling: there is nothing before.
        norms_first = is_vit and visual.attn_pool is None and not visual.final_ln_after_pool
        self.final_norm = layer is None and norms_first
        if is_vit:
            visual.prune_intermediate_layers([self.index], prune_norm=not self.final_norm)
            visual.attn_pool = None
        else:
            visual.attnpool = nn.Identity()
        self.visual = visual

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the map [B, D, h, w] of normalised images [B, 3, H, W]."""
        taken = self.visual.forward_intermediates(
            images_BCHW,
            indices=[self.index],
            normalize_intermediates=self.final_norm,
            intermediates_only=True,
            output_fmt="NCHW",
        )
        map_BDhw: Tensor = taken["image_intermediates"][0]
        return map_BDhw


class BareTrunk(nn.Module):
    """A timm model in the place that open_clip's adapter gives it, without the adapter's head."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk


def resolve(
    *,
    spec: ExpertSpec,
    weights: Path | None = None,
    model: str | None = None,
    tag: str | None = None,
    layer: int | None = None,
    image_size: int | Sequence[int] | None = None,
    tower: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Tell what `ContrastiveTower` with the same arguments takes and gives, without building it.

    Raises:
        ValueError: As `ContrastiveTower`; or the weights, or their image statistics, are not clear.
    """
    if weights is not None and weights.is_file() and model is None:
        raise ValueError(
            f"A weights file alone does not tell its architecture; give `model` beside {weights}, "
            f"open_clip's name of it, or a folder with {CONFIG} as `weights`."
        )
    architecture = read_architecture(model, tag, weights)
    size = as_size(image_size) or architecture.size
    with torch.device("meta"):
        tokens = measure(_cut(_build(architecture, size, tower), size, layer), size)
    own = tag is None and model == spec.options.get("model")
    place: Weights | None
    if weights is not None:
        place = Weights(source=str(weights))
    elif own:
        place = spec.weights
    else:
        place = None if tower else published_weights(architecture.name, tag)
    image: ImageSpec | None = None
    if weights is not None and weights.is_dir():
        image = read_folder_image(weights, size)
    if image is None and own:
        image = replace(spec.image, size=size)
    return replace(
        spec,
        tokens=tokens,
        image=image or published_image(architecture.name, tag, size),
        weights=place,
    )


def _build(
    architecture: Architecture, size: tuple[int, int], tower: Mapping[str, Any] | None
) -> nn.Module:
    """Build a vision tower with random weights; open_clip's own is made for images of `size`."""
    # Private, but alike since open_clip 2.0; create_model would build the text tower as well.
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    vision, changes = dict(architecture.vision), dict(tower or {})
    try:
        if "timm_model_name" in vision and changes:
            import timm

            trunk = timm.create_model(vision["timm_model_name"], num_classes=0, **changes)
            return BareTrunk(trunk)
        is_vit = "timm_model_name" not in vision and isinstance(vision.get("layers", 12), int)
        if is_vit:
            vision["image_size"] = size
        visual: nn.Module = _build_vision_tower(
            architecture.embed_dim, CLIPVisionCfg(**vision | changes), architecture.quick_gelu
        )
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"open_clip cannot build the vision tower of {architecture.name}: {error}"
        ) from error
    return visual


def _cut(visual: nn.Module, size: tuple[int, int], layer: int | None) -> nn.Module:
    """Make the tower that runs: for images of `size`, up to `layer`."""
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        return OpenClipTower(visual, layer)
    resize(trunk, size)
    return TimmTower(trunk, layer)
