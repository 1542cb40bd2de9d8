"""The first-party plugin: it yields the specs of every family in the catalogue."""

from collections.abc import Iterator

from tove_experts.catalogue import (
    contrastive,
    depth,
    detection,
    dino,
    maps,
    openmmlab,
    segmentation,
    timm_backbone,
    tiny,
    transformers_backbone,
)
from tove_plugins import ExpertSpec, hookimpl

__all__ = ["tove_experts"]

FAMILIES = (
    tiny,
    timm_backbone,
    contrastive,
    segmentation,
    detection,
    openmmlab,
    dino,
    depth,
    maps,
    transformers_backbone,
)


@hookimpl
def tove_experts() -> Iterator[ExpertSpec]:
    """Yield the specs of the experts that come with tove."""
    for family in FAMILIES:
        yield from family.specs()
