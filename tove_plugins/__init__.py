"""The SDK of tove's vision experts: all that a third party imports to publish one.

A plugin is a module with one function marked `@hookimpl`, `tove_experts()`, that yields
`ExpertSpec`s, and an entry point of the group `tove.experts` that names the module. Discovering
and listing experts imports neither torch nor any expert's factory; building one does.
"""

from tove_plugins._building import build_expert, build_from_spec, check_build, resolve_expert
from tove_plugins._catalog import Catalog, ExpertEntry, PluginRecord
from tove_plugins._discovery import discover
from tove_plugins._errors import ExpertBuildError, ExpertNotAvailable, ExpertSpecError
from tove_plugins._hooks import ENTRY_POINT_GROUP, hookimpl, hookspec
from tove_plugins._protocol import Expert, ExpertFactory
from tove_plugins._resources import find_weights, resolve_resource, sha256_of
from tove_plugins.specs import API_VERSION, ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "Catalog",
    "Expert",
    "ExpertBuildError",
    "ExpertEntry",
    "ExpertFactory",
    "ExpertNotAvailable",
    "ExpertSpec",
    "ExpertSpecError",
    "ImageSpec",
    "PluginRecord",
    "TokenSpec",
    "Weights",
    "build_expert",
    "build_from_spec",
    "check_build",
    "discover",
    "find_weights",
    "hookimpl",
    "hookspec",
    "resolve_expert",
    "resolve_resource",
    "sha256_of",
]
