"""Any backbone that transformers' AutoBackbone loads: the feature map of one stage.

Stages are numbered as the library's `out_indices`: 0 is the stem, -1 the last stage. The last is
the default, for it is what a backbone's own head reads; earlier ones of a pyramid have finer grids.

Width and grid differ from model to model, and no config says them. They are measured: the model is
built on the "meta" device, where tensors have shapes and no data, and its forward is run there.

Shapes: B batch, C = 3 channels, H x W the image, D width, h x w the stage's map, N = h * w.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_experts.exposed import library_config, taken_image
from tove_experts.hf import load_model, read_config
from tove_plugins import ExpertSpec, TokenSpec

__all__ = ["TransformersBackbone", "resolve"]

# Kinds of model that have another expert here.
INSTEAD = {
    "timm_backbone": "timm",
    "timm_wrapper": "timm",
    "dinov3_vit": "dinov3_vitb16",
    "depth_anything": "depth_anything_v2_base",
    "dpt": "dpt_large",
}


def resolve(
    spec: ExpertSpec,
    weights: Path | None,
    config: Mapping[str, Any],
    stage: int = -1,
    image_size: int | Sequence[int] | None = None,
) -> ExpertSpec:
    """Give the spec of a build with other weights or options; takes what the expert takes.

    Raises:
        ValueError: The weights are no backbone's, there is no such stage, or the model cannot take
            the image's size without padding it.
    """
    library = _library_config(weights, config, stage)
    image = taken_image(spec, weights, image_size)
    width, *grid = _measure(library, image.size)
    if image.size[0] % grid[0] or image.size[1] % grid[1]:
        raise ValueError(
            f"Stage {stage} of this {library.model_type} gives {grid[0]} x {grid[1]} tokens for an "
            f"image of {image.size[0]} x {image.size[1]} pixels, which do not tile it: it pads the "
            "image. Give an image_size that divides by the stage's stride."
        )
    return replace(spec, image=image, tokens=TokenSpec(width, (grid[0], grid[1])))


class TransformersBackbone(nn.Module):
    """Normalised images [B, 3, H, W] -> the tokens of one stage [B, h*w, D].

    Args:
        spec: What this build takes and gives, as `resolve` says.
        weights: A folder that transformers wrote; None for random ones.
        config: The architecture of the default weights, or of random ones.
        stage: Which stage's map, counted as the library's `out_indices`.
        image_size: One side or (height, width) in pixels; it stands in the spec.

    Raises:
        ValueError: The weights are no backbone's, or there is no such stage.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        config: Mapping[str, Any],
        stage: int = -1,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        library = _library_config(weights, config, stage)
        if weights is None:
            self.model = _random_backbone(library)
        else:
            # The library puts a norm behind each stage that a classifier's file does not have; it
            # begins as a plain standardisation.
            self.model = load_model(
                _class_name(library), weights, may_miss="hidden_states_norms", config=library
            )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the tokens [B, N, D]."""
        map_BDhw = self.model(images_BCHW).feature_maps[0]
        return map_BDhw.flatten(2).transpose(1, 2)


def _library_config(weights: Path | None, config: Mapping[str, Any], stage: int) -> Any:  # noqa: ANN401
    """Give the library's config of a backbone whose only output is the map of one stage."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES as BACKBONES

    model_type = (config if weights is None else read_config(weights)).get("model_type")
    if model_type not in BACKBONES or model_type in INSTEAD:
        other = INSTEAD.get(str(model_type))
        hint = f"take the expert '{other}'" if other else f"there are {', '.join(BACKBONES)}"
        raise ValueError(
            f"transformers' AutoBackbone has no model_type {model_type!r}, as {weights} is; {hint}."
        )
    library = library_config(weights, config, ())
    if not -len(library.stage_names) <= stage < len(library.stage_names):
        raise ValueError(
            f"stage={stage} is not there: this {model_type} has {len(library.stage_names)}, "
            f"{', '.join(library.stage_names)}, counted from 0, or from the end as -1."
        )
    library.out_indices = [stage]
    if hasattr(library, "reshape_hidden_states"):
        library.reshape_hidden_states = True  # a map, without the class token
    return library


def _class_name(library: Any) -> str:  # noqa: ANN401
    """Name the backbone class; AutoBackbone of transformers 5 asks a hub for a local folder."""
    from transformers import MODEL_FOR_BACKBONE_MAPPING

    backbone: Any = MODEL_FOR_BACKBONE_MAPPING[type(library)]
    return str(backbone.__name__)


def _random_backbone(library: Any) -> nn.Module:  # noqa: ANN401
    from transformers import AutoBackbone

    model: nn.Module = AutoBackbone.from_config(library)
    return model.eval()


def _measure(library: Any, size: tuple[int, int]) -> tuple[int, int, int]:  # noqa: ANN401
    """Give width, rows and columns of the map that an image of this size gets."""
    try:
        with torch.device("meta"), torch.no_grad():
            maps = _random_backbone(library)(torch.empty(1, 3, *size)).feature_maps
    except (ImportError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"This {library.model_type} cannot run on an image of {size[0]} x {size[1]} pixels; "
            f"give another image_size. The cause: {error}"
        ) from error
    width, rows, columns = maps[0].shape[1:]
    return width, rows, columns
