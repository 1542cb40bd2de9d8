"""The map experts: edges (DexiNed, through kornia) and surface normals (from metric depth).

A map says little by one pixel, so a trained stem of the core turns it into features; its cells are
a few pixels, of which the stem makes CLIP's. `stride` gives them.

Of networks that predict normals by themselves no weights are in a format that transformers or timm
loads, and normals need none: metric depth and a camera determine them. Relative depth does not, its
unknown shift bends every plane, so the expert takes Depth Anything V2's metric weights; Small's if
none are given, for the others may not be used commercially.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tove_experts.catalogue.depth import tiny_depth_anything
from tove_experts.exposed import expose
from tove_experts.hf import as_size, patch_grid, read_config, read_image
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["resolve_edges", "resolve_normals", "specs"]

EDGE_STRIDE, NORMAL_STRIDE = 4, 7
HYPERSIM_VIEW = 46.8
"""Degrees between the upper and the lower edge of Hypersim's images: 60 across, 4 : 3."""


def specs() -> Iterator[ExpertSpec]:
    """Yield the map experts' specs."""
    yield _edges()
    yield _normals()


def resolve_edges(
    spec: ExpertSpec,
    weights: Path | None,
    stride: int = EDGE_STRIDE,
    image_size: int | Sequence[int] | None = None,
    narrow: int = 1,
) -> ExpertSpec:
    """Give the spec of a build with other options; takes what `EdgeExpert` takes.

    Raises:
        ValueError: A stride that does not divide the image.
    """
    image = replace(spec.image, size=as_size(image_size) or spec.image.size)
    return expose(spec, image, "map", stride, {"map": 1})


def resolve_normals(
    spec: ExpertSpec,
    weights: Path | None,
    config: Mapping[str, Any],
    stride: int = NORMAL_STRIDE,
    field_of_view: float = HYPERSIM_VIEW,
    image_size: int | Sequence[int] | None = None,
) -> ExpertSpec:
    """Give the spec of a build with other weights or options; takes what `NormalExpert` takes.

    Raises:
        ValueError: Weights of another model or of relative depth, a field of view that no camera
            has, or a size or stride that does not divide.
    """
    image = spec.image
    if weights is not None:
        config = read_config(weights, (config["model_type"],))
        image = read_image(weights, image, interpolation=image.interpolation)
    if config.get("depth_estimation_type", "relative") != "metric":
        raise ValueError(
            f"The weights {weights} predict relative depth, whose unknown shift bends every plane, "
            "so that it has no normals; choose weights of metric depth, 'hub:depth-anything/"
            "Depth-Anything-V2-Metric-Outdoor-Small-hf' for example."
        )
    if not 0 < field_of_view < 180:
        raise ValueError(
            f"field_of_view is {field_of_view!r}; give the degrees that the image's shorter side "
            "spans, above 0 and below 180."
        )
    image = replace(image, size=as_size(image_size) or image.size)
    patch_grid(image.size, config["patch_size"])
    return expose(spec, image, "map", stride, {"map": 3})


def _edges() -> ExpertSpec:
    # All of the core's usual view. It was trained on crops of 352 pixels of larger images and takes
    # any size, but enlarging the view adds no edges and costs two and a half times as much.
    side = 224
    return ExpertSpec(
        name="edge_dexined",
        task="edges",
        factory="tove_experts.edges:EdgeExpert",
        tokens=TokenSpec(1, patch_grid((side, side), EDGE_STRIDE), "map"),
        image=ImageSpec(
            size=(side, side),
            mean=(123.68, 116.779, 103.939),
            std=(1.0, 1.0, 1.0),
            value_range=(0.0, 255.0),
            interpolation="bilinear",
        ),
        weights=Weights(
            "hub:kornia/dexined/DexiNed_BIPED_10.pth",
            size_mb=141,
            licence="MIT",
            trained_on="BIPED, 200 street images with edges drawn by hand, from scratch",
            commercial_use=True,
        ),
        requires=("kornia>=0.9",),
        options={"stride": EDGE_STRIDE},
        tiny={"narrow": 8},
        resolve="tove_experts.catalogue.maps:resolve_edges",
        description="DexiNed: edges as people draw them, the share of them in every cell.",
    )


def _normals() -> ExpertSpec:
    width, fused = 384, 64
    metric = {"depth_estimation_type": "metric", "max_depth": 20}
    config = {
        "model_type": "depth_anything",
        "reassemble_hidden_size": width,
        "fusion_hidden_size": fused,
        "patch_size": 14,
        **metric,
    }
    image = ImageSpec((518, 518), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return ExpertSpec(
        name="normal_depth_anything_v2",
        task="surface normals",
        factory="tove_experts.normals:NormalExpert",
        tokens=TokenSpec(3, patch_grid(image.size, NORMAL_STRIDE), "map"),
        image=image,
        weights=Weights(
            "hub:depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
            size_mb=99,
            licence="Apache-2.0",
            trained_on="Hypersim, 77 thousand rendered indoor images, from Depth Anything V2",
            commercial_use=True,
        ),
        options={
            "config": config,
            "stride": NORMAL_STRIDE,
            "field_of_view": HYPERSIM_VIEW,
        },
        tiny={"config": {**tiny_depth_anything(fused), **metric}},
        resolve="tove_experts.catalogue.maps:resolve_normals",
        description="Where surfaces face: normals of metric depth, with the Small model's weights.",
    )
