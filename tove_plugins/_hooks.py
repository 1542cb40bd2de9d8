"""The one hook of a plugin, `tove_experts()`, and the markers that pluggy knows it by."""

from collections.abc import Iterable

import pluggy

from tove_plugins.specs import ExpertSpec

__all__ = ["ENTRY_POINT_GROUP", "HOOK_NAME", "PROJECT", "ExpertHooks", "hookimpl", "hookspec"]

PROJECT = "tove"
ENTRY_POINT_GROUP = "tove.experts"
HOOK_NAME = "tove_experts"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class ExpertHooks:
    """The hooks that a plugin may implement, called once at start-up and never per batch."""

    @hookspec
    def tove_experts(self) -> Iterable[ExpertSpec]:  # type: ignore[empty-body]
        """Yield the specs of the plugin's experts.

        The function runs at every listing: it imports no framework and opens no weights.
        """
