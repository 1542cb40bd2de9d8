"""The SDK of tove's plugins: all that a third party imports to publish a vision expert.

A plugin is a module with one function marked `@hookimpl`, `tove_experts()`, that yields
`ExpertSpec`s, and an entry point of the group `tove.experts` that names the module. Discovering
and listing experts imports neither torch nor any expert's factory; building one does.
A package with a method does the same with `tove_methods()`, `MethodSpec`s and `tove.methods`; its
model imports the engine's public list, `tove.api`, besides.
"""

from tove_plugins._building import (
    build_expert,
    build_from_spec,
    check_build,
    expert_factory,
    resolve_expert,
)
from tove_plugins._catalog import (
    Catalog,
    ExpertEntry,
    MethodCatalog,
    MethodEntry,
    PluginRecord,
)
from tove_plugins._discovery import discover, discover_methods
from tove_plugins._errors import (
    ExpertBuildError,
    ExpertNotAvailable,
    ExpertSpecError,
    MethodImportError,
    MethodNotAvailable,
    MethodSpecError,
)
from tove_plugins._global_state import kept_global_state
from tove_plugins._hooks import (
    ENTRY_POINT_GROUP,
    METHOD_ENTRY_POINT_GROUP,
    hookimpl,
    hookspec,
)
from tove_plugins._importing import import_method
from tove_plugins._protocol import Expert, ExpertFactory
from tove_plugins._resources import find_weights, resolve_resource, sha256_of
from tove_plugins._weights_files import weights_problem
from tove_plugins.method_spec import METHOD_API_VERSION, MethodSpec
from tove_plugins.specs import API_VERSION, ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "METHOD_API_VERSION",
    "METHOD_ENTRY_POINT_GROUP",
    "Catalog",
    "Expert",
    "ExpertBuildError",
    "ExpertEntry",
    "ExpertFactory",
    "ExpertNotAvailable",
    "ExpertSpec",
    "ExpertSpecError",
    "ImageSpec",
    "MethodCatalog",
    "MethodEntry",
    "MethodImportError",
    "MethodNotAvailable",
    "MethodSpec",
    "MethodSpecError",
    "PluginRecord",
    "TokenSpec",
    "Weights",
    "build_expert",
    "build_from_spec",
    "check_build",
    "discover",
    "discover_methods",
    "expert_factory",
    "find_weights",
    "hookimpl",
    "hookspec",
    "import_method",
    "kept_global_state",
    "resolve_expert",
    "resolve_resource",
    "sha256_of",
    "weights_problem",
]
