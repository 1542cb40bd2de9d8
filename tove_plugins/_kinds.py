"""The kinds of plugins. All that differs between them is said here; the machinery is one.

A kind is an entry point group, the hook that yields its specs, and what a spec claims: names that
no other plugin of the kind may claim as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Generic, TypeVar

from tove_plugins._catalog import Catalog, ExpertEntry, MethodCatalog, MethodEntry, PluginRecord
from tove_plugins._errors import ExpertSpecError, MethodSpecError, SpecError
from tove_plugins._hooks import (
    ENTRY_POINT_GROUP,
    METHOD_ENTRY_POINT_GROUP,
    ExpertHooks,
    MethodHooks,
)
from tove_plugins.method_spec import METHOD_API_VERSION, MethodSpec
from tove_plugins.specs import API_VERSION, ExpertSpec

__all__ = ["EXPERTS", "KINDS", "METHODS", "Kind"]

C = TypeVar("C")  # the catalog of a kind


@dataclass(frozen=True, slots=True)
class Kind(Generic[C]):
    """What a plugin brings.

    Args:
        noun: What messages call one of what it brings.
        group: The entry point group.
        hooks: The class with the hook's specification; its one function has the hook's name.
        hook: That name.
        spec: The class of what the hook yields.
        spec_error: What a spec raises that is not usable.
        api: The version of the contract that this SDK speaks.
        claims: Gives what a spec claims: no two plugins may claim the same.
        heavy: Where its plugin should import what is heavy.
        entry: Makes a catalog's entry of (spec, distribution, version, plugin).
        catalog: Makes a catalog of (entries by name, records, contested, notes).
        builtin: The entry point of what comes with the SDK. Entry points exist only after an
            installation, and a bare checkout must work: it is known by its name.
    """

    noun: str
    group: str
    hooks: type
    hook: str
    spec: type[Any]
    spec_error: type[SpecError]
    api: int
    claims: Callable[[Any], tuple[str, ...]]
    heavy: str
    entry: Callable[[Any, str, str, str], Any]
    catalog: Callable[
        [
            Mapping[str, Any],
            tuple[PluginRecord, ...],
            Mapping[str, tuple[Any, ...]],
            tuple[str, ...],
        ],
        C,
    ]
    builtin: EntryPoint | None = None


EXPERTS: Kind[Catalog] = Kind(
    noun="expert",
    group=ENTRY_POINT_GROUP,
    hooks=ExpertHooks,
    hook="tove_experts",
    spec=ExpertSpec,
    spec_error=ExpertSpecError,
    api=API_VERSION,
    claims=lambda spec: (spec.name,),
    heavy="factory",
    entry=ExpertEntry,
    catalog=Catalog,
    builtin=EntryPoint(name="builtin", value="tove_experts.plugin", group=ENTRY_POINT_GROUP),
)
METHODS: Kind[MethodCatalog] = Kind(
    noun="method",
    group=METHOD_ENTRY_POINT_GROUP,
    hooks=MethodHooks,
    hook="tove_methods",
    spec=MethodSpec,
    spec_error=MethodSpecError,
    api=METHOD_API_VERSION,
    claims=lambda spec: (spec.name, *spec.types),
    heavy="method's module",
    entry=MethodEntry,
    catalog=MethodCatalog,
)
KINDS = (EXPERTS, METHODS)
