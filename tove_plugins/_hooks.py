"""The two hooks of a plugin, `tove_experts()` and `tove_methods()`, and pluggy's markers."""

from collections.abc import Iterable

import pluggy

from tove_plugins.method_spec import MethodSpec
from tove_plugins.specs import ExpertSpec

__all__ = [
    "ENTRY_POINT_GROUP",
    "METHOD_ENTRY_POINT_GROUP",
    "PROJECT",
    "ExpertHooks",
    "MethodHooks",
    "hookimpl",
    "hookspec",
]

PROJECT = "tove"
ENTRY_POINT_GROUP = "tove.experts"
METHOD_ENTRY_POINT_GROUP = "tove.methods"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ExpertHooks:
    """The hook of a plugin of the group `tove.experts`, called once and never per batch."""

    @hookspec
    def tove_experts(self) -> Iterable[ExpertSpec]:  # type: ignore[empty-body]
        """Yield the specs of the plugin's experts.

        The function runs at every listing: it imports no framework and opens no weights.
        """


class MethodHooks:
    """The hook of a plugin of the group `tove.methods`."""

    @hookspec
    def tove_methods(self) -> Iterable[MethodSpec]:  # type: ignore[empty-body]
        """Yield the specs of the plugin's methods.

        The function runs at every listing and every start: it imports no framework.
        """
