"""Import the methods of other packages that a config names, before the config is checked.

An installed package declares by its `MethodSpec` which types importing its module registers
(`MODELS.MyMethod`, `STAGES.MyStage`). A config that names one of them needs that module; any other
config does not pay for it. Built-in methods are found by the registries' own locations.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from tove import registry
from tove.config.overlay import plain_settings
from tove.errors import ConfigError
from tove_plugins import MethodEntry, discover_methods, import_method

__all__ = ["import_named_methods", "registered_type"]


def import_named_methods(cfg: Config) -> list[MethodEntry]:
    """Import the module of each installed method of which the config names a type.

    Args:
        cfg: as it was read; any `type` in it counts, wherever it stands.

    Returns:
        The methods that were imported.

    Raises:
        ConfigError: a type that the config names is claimed by more than one package, or by one
            and by the engine itself; or a package does not register what it declares.
        MethodImportError: a requirement of a method is not met, or its module cannot be imported.
    """
    named = set(_types_in(plain_settings(dict(cfg))))
    catalog = discover_methods()
    for claim, claimants in catalog.contested.items():
        wanted = [entry for entry in claimants if _names_any(named, entry)]
        if wanted:
            raise ConfigError(
                f"The config names a type of the {_label(wanted[0])}, which is set aside. "
                f"{catalog.explain_contested(claim)}"
            )
    chosen = [entry for entry in catalog.methods.values() if _names_any(named, entry)]
    for entry in chosen:
        _check_free(entry)
    for entry in chosen:
        import_method(entry)
        _check_registered(entry)
    return chosen


def _names_any(named: set[str], entry: MethodEntry) -> bool:
    return any(text.partition(".")[2] in named for text in entry.spec.types)


def _types_in(settings: Any) -> Iterator[str]:  # noqa: ANN401 - any part of a config
    """Yield every `type` that is a name, without mmengine's scope before it."""
    if isinstance(settings, Mapping):
        kind = settings.get("type")
        if isinstance(kind, str):
            yield kind.rpartition(".")[2]
        for value in settings.values():
            yield from _types_in(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _types_in(value)


def registered_type(text: str) -> Any:  # noqa: ANN401 - what the registry holds
    """Return what is registered under "REGISTRY.NAME" in a registry of the engine; None if nothing.

    Raises:
        ConfigError: the engine has no such registry.
    """
    kind, _, name = text.partition(".")
    found = getattr(registry, kind, None)
    if not isinstance(found, Registry):
        raise ConfigError(f"There is no registry '{kind}' for the type {text}; see docs/api.md.")
    return found.get(name)  # mmengine's own as well, which a type of the same name would hide


def _label(entry: MethodEntry) -> str:
    return f"method '{entry.spec.name}' ({entry.origin})"


def _is_its_own(entry: MethodEntry, found: Any) -> bool:  # noqa: ANN401 - what a registry holds
    module = getattr(found, "__module__", "")
    return module.partition(".")[0] == entry.spec.module.partition(".")[0]


def _check_free(entry: MethodEntry) -> None:
    """Refuse a package that declares a type which the engine or research code has already."""
    for text in entry.spec.types:
        found = _registered(entry, text)
        if found is not None and not _is_its_own(entry, found):
            raise ConfigError(
                f"The type {text} is claimed by the {_label(entry)} and by {found.__module__}, and "
                f"neither is preferred; set TOVE_BLOCK_PLUGINS={entry.plugin}, or uninstall it: "
                f"pip uninstall {entry.distribution}"
            )


def _check_registered(entry: MethodEntry) -> None:
    """Hold what importing a method's module has registered against what its spec declares."""
    for text in entry.spec.types:
        if _registered(entry, text) is None:
            raise ConfigError(
                f"The {_label(entry)} declares the type {text}, but importing {entry.spec.module} "
                f"registers nothing of that name; mend it with: pip install -U "
                f"{entry.distribution}, or write to its author."
            )


def _registered(entry: MethodEntry, text: str) -> Any:  # noqa: ANN401 - what the registry holds
    try:
        return registered_type(text)
    except ConfigError as error:
        raise ConfigError(
            f"The {_label(entry)} cannot be used. {error} Mend it with: pip install -U "
            f"{entry.distribution}, or write to its author."
        ) from error
