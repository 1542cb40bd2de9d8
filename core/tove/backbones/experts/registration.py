"""From discovery to the registry EXPERTS: what `dict(type="NAME", ...)` of an expert means.

Every expert that a plugin offers becomes a lazy factory of its name: looking it up imports nothing
of the plugin, building it does. A research project registers a class of its own beside them, by
`custom_imports`; the class carries its `ExpertSpec` as the attribute `spec`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmengine.registry import Registry, build_from_cfg
from torch import nn

from tove.registry import EXPERTS
from tove_plugins import (
    ExpertEntry,
    ExpertNotAvailable,
    ExpertSpec,
    ExpertSpecError,
    build_expert,
    discover,
    resolve_expert,
)

__all__ = [
    "Stored",
    "build_registered_expert",
    "expert_options",
    "expert_spec",
    "is_stored",
    "register_experts",
    "register_stored",
    "stored_of",
]

RESEARCH = "research code"
PLACEMENT = ("device", "dtype", "resize", "token_norm", "licence", "_scope_")
"""What a slot's config says to the hub and not to the expert."""


def register_experts() -> None:
    """Put a lazy factory of every discovered expert into EXPERTS; again is harmless."""
    for name, entry in discover().experts.items():
        present = EXPERTS.module_dict.get(name)
        if present is None or hasattr(present, "entry"):
            EXPERTS.register_module(name=name, module=_lazy_factory(entry), force=True)
        else:  # custom_imports came first: neither is preferred
            EXPERTS.register_module(name=name, module=_refuse(entry, present), force=True)


def _lazy_factory(entry: ExpertEntry) -> Callable[..., nn.Module]:
    def build(**options: Any) -> nn.Module:  # noqa: ANN401
        return build_expert(entry.spec.name, **options)

    build.__name__ = build.__qualname__ = entry.spec.name
    build.__doc__ = entry.spec.description
    build.entry = entry  # type: ignore[attr-defined]
    return build


def _refuse(entry: ExpertEntry, present: Any) -> Callable[..., nn.Module]:  # noqa: ANN401
    name = entry.spec.name
    message = (
        f"Expert '{name}' is claimed by plugin '{entry.plugin}' of {entry.distribution} and by "
        f"{present.__module__}.{getattr(present, '__qualname__', present)}, registered through "
        "custom_imports. Register the latter under another name, or set "
        f"TOVE_BLOCK_PLUGINS={entry.plugin}."
    )

    def refuse(**options: Any) -> nn.Module:  # noqa: ANN401
        raise ExpertNotAvailable(message)

    refuse.refusal = message  # type: ignore[attr-defined]
    return refuse


def build_registered_expert(cfg: Mapping[str, Any], registry: Registry = EXPERTS) -> nn.Module:
    """Build an expert from its config; the build function of EXPERTS.

    Args:
        cfg: dict(type=NAME, **options); `tiny` and `weights` are those of `build_expert`.
        registry: EXPERTS.

    Raises:
        ExpertNotAvailable: No plugin or registered class has this name.
        ExpertBuildError: It could not be built.
    """
    _look_up(cfg, registry)
    expert: nn.Module = build_from_cfg(dict(cfg), registry)
    return expert


def expert_spec(cfg: Mapping[str, Any]) -> ExpertEntry:
    """Give what is known of a config's expert without building it.

    Nothing of it is imported either, unless the config changes its weights or options and its spec
    names a `resolve` function, which then tells what this build takes and gives.

    Raises:
        ExpertBuildError: Its weights or options do not resolve.
        ExpertNotAvailable: No plugin or registered class has this name.
        ExpertSpecError: A registered class has no `spec`.
    """
    found = _look_up(cfg, EXPERTS)
    if hasattr(found, "stored"):
        return stored_of(cfg)[1]
    entry = getattr(found, "entry", None)
    if isinstance(entry, ExpertEntry):
        return replace(entry, spec=resolve_expert(entry.spec.name, **expert_options(cfg)))
    spec = getattr(found, "spec", None)
    if not isinstance(spec, ExpertSpec):
        raise ExpertSpecError(
            f"{found.__module__}.{getattr(found, '__qualname__', found)}, registered in EXPERTS as "
            f"{cfg['type']!r}, has no `spec`; give the class an attribute `spec = ExpertSpec(...)`."
        )
    return ExpertEntry(spec, RESEARCH, "unversioned", str(found.__module__))


Stored = tuple[Mapping[str, Any], Mapping[str, Any], ExpertEntry]
"""Options of an expert, what its kept tokens depend on, and its entry."""


def register_stored(name: str, stored: Sequence[Stored], where: str) -> None:
    """Let a name that no package here offers mean an expert whose tokens are kept.

    Args:
        name: of the expert.
        stored: of each of its builds that has tokens kept.
        where: they are kept.
    """
    if EXPERTS.get(name) is not None:
        return

    def refuse(**options: Any) -> nn.Module:  # noqa: ANN401
        raise ExpertNotAvailable(
            f"Expert '{name}' is known by its tokens in {where} alone, and has to run here; "
            f"install {stored[0][2].distribution}, or see that the tokens of all images are there."
        )

    refuse.stored = list(stored)  # type: ignore[attr-defined]
    EXPERTS.register_module(name=name, module=refuse, force=True)


def is_stored(cfg: Mapping[str, Any]) -> bool:
    """Tell whether an expert is known by its kept tokens alone."""
    return hasattr(_look_up(cfg, EXPERTS), "stored")


def stored_of(cfg: Mapping[str, Any]) -> tuple[Mapping[str, Any], ExpertEntry]:
    """Return what the kept tokens of a config's expert depend on, and its entry.

    Raises:
        ExpertNotAvailable: they are of other options.
    """
    own = {k: v for k, v in expert_options(cfg).items() if k not in ("weights", "sha256")}
    stored = _look_up(cfg, EXPERTS).stored
    for options, source, entry in stored:
        if dict(options) == own:
            return source, entry
    raise ExpertNotAvailable(
        f"The package of expert '{cfg['type']}' is not installed, and its tokens that are kept are "
        f"of the options {[dict(options) for options, _, _ in stored]}, not of {own}."
    )


def expert_options(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a slot's config says to the expert's builder: all but its type and placement."""
    return {key: value for key, value in cfg.items() if key not in ("type", *PLACEMENT)}


def _look_up(cfg: Mapping[str, Any], registry: Registry) -> Any:  # noqa: ANN401
    kind = cfg.get("type")
    if callable(kind):
        return kind
    if not isinstance(kind, str):
        raise ExpertNotAvailable(
            f"The config of an expert, {dict(cfg)!r}, names none; add type='NAME'. "
            "`python -m tove_plugins list` tells the names."
        )
    try:
        found = registry.get(kind)
    except RuntimeError:  # what mmengine raises for a name it cannot resolve
        found = None
    if found is None:
        catalog = discover()
        name = kind.removeprefix(f"{registry.scope}.")
        if name in catalog.contested:
            catalog.get(name)
        raise ExpertNotAvailable(catalog.explain_unknown(name, registry.module_dict))
    if hasattr(found, "refusal"):
        raise ExpertNotAvailable(found.refusal)
    return found


EXPERTS.build_func = build_registered_expert
register_experts()
