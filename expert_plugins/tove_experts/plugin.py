"""The first-party plugin: it yields the specs of every family in the catalogue."""

from collections.abc import Iterator

from tove_experts.catalogue import tiny
from tove_plugins import ExpertSpec, hookimpl

__all__ = ["tove_experts"]

FAMILIES = (tiny,)


@hookimpl
def tove_experts() -> Iterator[ExpertSpec]:
    """Yield the specs of the experts that come with tove."""
    for family in FAMILIES:
        yield from family.specs()
