"""The frozen networks of a model, as its cache knows them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.feature_cache.key import Source, describe_encoder, describe_expert
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.backbones.shapes import building_shapes

__all__ = ["frozen_sources", "only_read"]


def only_read(cache: TokenCache | None, experts: Mapping[str, Any]) -> list[str]:
    """Return the slots whose experts are not built with the model.

    Tokens that are read and never computed need none; of shapes alone each is built by itself, for
    one may need its weights.
    """
    if building_shapes():
        return list(experts)
    return [slot for slot in experts if cache is not None and cache.mode_of(slot) == "read"]


def frozen_sources(
    encoder: Any,  # noqa: ANN401 - any of ENCODERS
    hub: ExpertHub,
    experts: Mapping[str, Mapping[str, Any]],
    cache: TokenCache | None,
) -> dict[str, Source]:
    """Say of each frozen network what its tokens depend on, by slot; "clip" is the encoder.

    Args:
        encoder: of the model.
        hub: its `grids` become those of the tokens that the cache gives.
        experts: their configs, by slot.
        cache: of the model.
    """
    own = partial(describe_encoder, encoder)
    sources = {"clip": Source("clip", "", encoder.width, encoder.grid, False, own)}
    for slot, spec in hub.specs.items():
        cfg, tokens = experts[slot], spec.tokens
        settings, is_map = str(sorted(cfg.items(), key=str)), tokens.kind == "map"
        describe = partial(describe_expert, cfg, partial(_built, hub, slot))
        shape = tokens.width, tokens.grid, is_map
        sources[slot] = Source(slot, settings, *shape, describe, tokens.mirrors)
        if cache is not None:  # a codec may keep them on the encoder's grid
            hub.grids[slot] = cache.grid_of(sources[slot], encoder.grid)
    return sources


def _built(hub: ExpertHub, slot: str) -> nn.Module:
    """Return a slot's network alone: how its tokens are normalised changes nothing of them."""
    expert: Any = hub.network(slot).expert
    return expert
