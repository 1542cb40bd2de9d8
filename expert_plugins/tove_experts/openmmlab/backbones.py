"""Any image classifier of mmpretrain as an expert: the map of one stage of its backbone.

    t = grid( backbone( image )_stage )        the last stage by default

The last stage is what the classifier reads, the usual choice for transfer; earlier stages of a
convolutional or windowed backbone are finer and know less of what is there. Vision transformers
give their patch tokens, without class token, and ConvNeXts their map before the mean, both after
the final norm where the stage is the last. Swin and ConvNeXt put a norm behind every exposed stage,
and a classifier's checkpoint has the last one only: their earlier stages need a file with them all.

Shapes: B batch, C = 3 channels, H x W the image, D width, N = h * w tokens.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tove_experts.grids import map_to_grid
from tove_experts.hf import as_size
from tove_experts.openmmlab.building import build_model, keep_only, mixed_precision
from tove_experts.openmmlab.checkpoints import load_checkpoint
from tove_experts.openmmlab.configs import (
    expects_bgr,
    find_config,
    image_spec,
    image_step,
    read_config,
)
from tove_experts.openmmlab.fallback import serve_mmcv_ops
from tove_experts.openmmlab.published import UNTOLD, published_weights
from tove_plugins import ExpertSpec, TokenSpec, Weights
from tove_plugins.specs import Interpolation

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = ["PretrainedBackbone", "resolve"]

LIBRARY = "mmpretrain"
DEFAULT_SIDE = 224  # pixels, where a config's test pipeline names no size


class PretrainedBackbone(nn.Module):
    """Normalised RGB images [B, 3, H, W] -> tokens [B, N, D] of a backbone of mmpretrain.

    Args:
        spec: What this build takes and gives, as `resolve` says.
        weights: A checkpoint in mmengine's format, or safetensors; None for random weights.
        arch: A name of `mmpretrain.list_models()`, or a config by place, name or path.
        stage: Which stage (of a vision transformer: which block), 0 the first; -1 the last.
        image_size: One side or (height, width) in pixels; None for that of the test pipeline.
        overrides: Dotted keys of the config's model, {"backbone.depth": 101}.

    Raises:
        ValueError: A wrong option, or weights of another model.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        arch: str,
        stage: int = -1,
        image_size: int | Sequence[int] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        cfg = read_config(_config_file(arch), overrides or {})
        self.model = _backbone(cfg, arch, stage, initialise=weights is None)
        if weights is not None:
            load_checkpoint(self.model, weights)
        self.grid = spec.tokens.grid
        self.flips_channels = expects_bgr(_preprocessor(cfg))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the tokens [B, N, D]."""
        if self.flips_channels:
            images_BCHW = images_BCHW.flip(1)
        with mixed_precision(images_BCHW):
            map_BDhw = self.model.backbone(images_BCHW)[-1]
        return map_to_grid(map_BDhw.to(images_BCHW.dtype), self.grid)


def resolve(
    spec: ExpertSpec,
    weights: Path | None,
    arch: str,
    stage: int = -1,
    image_size: int | Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Give the spec of a build with other weights or options; takes what the expert takes.

    Without weights of the caller's the model is the published one of the architecture.

    Raises:
        ValueError: A wrong option, or an architecture without published weights.
    """
    file = _config_file(arch)
    cfg = read_config(file, overrides or {})
    pipeline = cfg.get("test_pipeline") or []
    size = as_size(image_size or image_step(pipeline, "scale", "crop_size") or DEFAULT_SIDE)
    assert size is not None
    width, rows, columns = _map_shape(
        str(file), json.dumps(overrides or {}, sort_keys=True), arch, stage, size
    )
    interpolation: Interpolation = image_step(pipeline, "interpolation") or "bilinear"
    other = weights is None and arch != spec.options["arch"]
    return replace(
        spec,
        tokens=TokenSpec(width, (rows, columns)),
        image=image_spec(_preprocessor(cfg), size, interpolation),
        weights=_published(arch, file) if other else spec.weights,
    )


@cache
def _map_shape(
    file: str, overrides: str, arch: str, stage: int, size: tuple[int, int]
) -> tuple[int, int, int]:
    """Tell the shape of the map by running the backbone without data; cached, as it is built."""
    cfg = read_config(Path(file), json.loads(overrides))
    model = _backbone(cfg, arch, stage, initialise=False).to("meta")
    with torch.no_grad():
        found = model.backbone(torch.empty(1, 3, *size, device="meta"))
    map_ = found[-1] if isinstance(found, list | tuple) and found else found
    if not isinstance(map_, Tensor) or map_.ndim != 4:
        raise ValueError(
            f"stage={stage} of arch={arch!r} gives no map [B, D, h, w], so no tokens on a grid; "
            "choose another stage or architecture."
        )
    return tuple(map_.shape[1:])  # type: ignore[return-value]


def _config_file(arch: str) -> Path:
    """Find the config of a config's own name or, where several models share one, of a model's."""
    try:
        return find_config(LIBRARY, arch)
    except ValueError as error:  # reading mmpretrain's whole index takes seconds
        listed = _model_index().get(arch.lower())
        if listed is None:
            raise ValueError(f"{error} mmpretrain.list_models() gives all names.") from error
        return Path(listed.config)


def _model_index() -> Mapping[str, Any]:
    """Give what mmpretrain's index tells of its models, by lower-case name."""
    serve_mmcv_ops()
    from mmpretrain.apis import list_models
    from mmpretrain.apis.model import ModelHub

    list_models()  # fills it
    return ModelHub._models_dict


def _published(arch: str, file: Path) -> Weights:
    """Give the published weights; models that share a config have their own."""
    if file.stem == arch:
        return published_weights(file)
    listed = _model_index().get(arch.lower())
    if listed is None or listed.weights is None:
        raise ValueError(
            f"mmpretrain's index names no weights for arch={arch!r}; give the checkpoint as "
            "`weights`."
        )
    return Weights(source=listed.weights, trained_on=UNTOLD)


def _preprocessor(cfg: Config) -> Mapping[str, Any]:
    return cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}


def _backbone(cfg: Config, arch: str, stage: int, *, initialise: bool) -> Any:  # noqa: ANN401
    """Build a classifier that ends with the map of one stage, with nothing but its backbone."""
    serve_mmcv_ops()
    from mmpretrain.registry import MODELS

    if cfg.model.get("type") != "ImageClassifier":
        raise ValueError(
            f"arch={arch!r} is a {cfg.model.get('type')}, and this expert takes image classifiers; "
            "choose a name of mmpretrain.list_models(task='Image Classification')."
        )
    if stage < -1:
        raise ValueError(f"stage={stage} is not there; give 0 or more, or -1 for the last.")
    settings = inspect.signature(MODELS.get(cfg.model.backbone.type)).parameters
    if "out_type" in settings:  # a vision transformer gives its class token unless told otherwise
        cfg.model.backbone.out_type = "featmap"
    if "gap_before_final_norm" in settings:  # a ConvNeXt gives the mean of its map
        cfg.model.backbone.gap_before_final_norm = False
    if stage >= 0:
        cfg.model.backbone.out_indices = (stage,)
    cfg.model.neck = cfg.model.head = None
    model = build_model("mmpretrain", cfg.model, initialise=initialise)
    keep_only(model, "backbone")
    return model
