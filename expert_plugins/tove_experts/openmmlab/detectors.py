"""mmdet's detectors and segmenters as experts: one map of theirs becomes the tokens.

    t = grid( maps_l( image ) )        maps: at a tap, see `taps`; l: the level

By default the maps are those of the deepest tap, and the level is the coarsest that still has
`MIN_ROWS` rows: finer than the 24 x 24 tokens of CLIP ViT-L/14 at 336 px, so that nothing is lost
when it meets them, while a finer level would cost memory and add nothing. At 640 px that is stride
16, 40 x 40 tokens.

Images arrive RGB; models that were trained on OpenCV's channel order get them flipped.

Shapes: B batch, C = 3 channels, H x W the image, D width, N = h * w tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from tove_experts.grids import map_to_grid
from tove_experts.hf import as_size
from tove_experts.openmmlab.building import build_model, mixed_precision
from tove_experts.openmmlab.checkpoints import load_checkpoint
from tove_experts.openmmlab.configs import expects_bgr, find_config, image_spec, read_config
from tove_experts.openmmlab.published import published_weights
from tove_experts.openmmlab.taps import TAPS, MapShape, deepest_tap
from tove_plugins import ExpertSpec, TokenSpec

if TYPE_CHECKING:
    from mmengine.config import Config

__all__ = ["Detector", "resolve"]

LIBRARY: Final = "mmdet"
MIN_ROWS = 24


class Detector(nn.Module):
    """Normalised RGB images [B, 3, H, W] -> tokens [B, N, D] of a model of mmdet.

    Args:
        spec: What this build takes and gives, as `resolve` says.
        weights: A checkpoint in mmengine's format, or safetensors; None for random weights.
        config: A config of mmdet's own, by its place or name, or a path.
        features: A tap: "backbone", "neck", "encoder" or "pixel_decoder"; None for the deepest.
        level: Which of the tap's maps, 0 the finest; None for the coarsest of `MIN_ROWS` rows.
        image_size: One side or (height, width) in pixels. It stands in the spec.
        overrides: Dotted keys of the config's model, {"backbone.depth": 101}.

    Raises:
        ValueError: A wrong option, or weights of another model.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        config: str,
        features: str | None = None,
        level: int | None = None,
        image_size: int | Sequence[int] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        cfg = read_config(find_config(LIBRARY, config), overrides or {})
        self.tap = _tap(cfg, features, initialise=weights is None)
        if weights is not None:
            load_checkpoint(self.tap.model, weights)
        self.level, self.grid = level, spec.tokens.grid
        self.flips_channels = expects_bgr(cfg.model.get("data_preprocessor") or {})

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the tokens [B, N, D]."""
        if self.flips_channels:
            images_BCHW = images_BCHW.flip(1)
        with mixed_precision(images_BCHW):
            maps = self.tap(images_BCHW)
        level = (
            self.level if self.level is not None else _default_level([m.shape[1:] for m in maps])
        )
        return map_to_grid(maps[level].to(images_BCHW.dtype), self.grid)


def resolve(
    spec: ExpertSpec,
    weights: Path | None,
    config: str,
    features: str | None = None,
    level: int | None = None,
    image_size: int | Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Give the spec of a build with other weights or options; takes what `Detector` takes.

    Without weights of the caller's the model is the published one of the config.

    Raises:
        ValueError: A wrong option, or a config without published weights.
    """
    path = find_config(LIBRARY, config)
    cfg = read_config(path, overrides or {})
    size = as_size(image_size) or spec.image.size
    preprocessor = cfg.model.get("data_preprocessor") or {}
    step = int(preprocessor.get("pad_size_divisor", 1))
    if size[0] % step or size[1] % step:
        raise ValueError(
            f"image_size {size[0]} x {size[1]} does not divide by {step}, to which the model pads; "
            "a padded image would lie elsewhere on the grid. Choose a multiple."
        )
    shapes = _shapes(str(path), json.dumps(overrides or {}, sort_keys=True), features, size)
    chosen = _default_level(shapes) if level is None else level
    if not 0 <= chosen < len(shapes):
        raise ValueError(f"level={level} is not there: the maps are 0 to {len(shapes) - 1}.")
    width, rows, columns = shapes[chosen]
    other = weights is None and config != spec.options["config"]
    return replace(
        spec,
        tokens=TokenSpec(width, (rows, columns)),
        image=image_spec(preprocessor, size, "bilinear"),
        weights=published_weights(path) if other else spec.weights,
    )


@cache
def _shapes(
    path: str, overrides: str, features: str | None, size: tuple[int, int]
) -> list[MapShape]:
    """Tell the shapes of a tap's maps by running the model without data; cached, as it is built."""
    tap = _tap(read_config(Path(path), json.loads(overrides)), features, initialise=False)
    try:
        with torch.no_grad():
            return tap.to("meta").outline(torch.empty(1, 3, *size, device="meta"))
    except RuntimeError as error:
        raise ValueError(
            f"The model cannot take images of {size[0]} x {size[1]} pixels ({error}); choose an "
            "image_size that its strides divide, a multiple of 32 as a rule."
        ) from error


def _tap(cfg: Config, features: str | None, *, initialise: bool) -> Any:  # noqa: ANN401
    model = build_model(LIBRARY, cfg.model, initialise=initialise)
    features = features or deepest_tap(model)
    if features not in TAPS or not TAPS[features].fits(model):
        fitting = [name for name, tap in TAPS.items() if tap.fits(model)]
        raise ValueError(
            f"features={features!r} is not there; a {type(model).__name__} has "
            f"{', '.join(map(repr, fitting))}."
        )
    return TAPS[features](model)


def _default_level(shapes: Sequence[Sequence[int]]) -> int:
    enough = [level for level, (_, rows, _) in enumerate(shapes) if rows >= MIN_ROWS]
    return max(enough, default=0)
