"""Settings as plain data: copied, laid over one another, flattened."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["flatten", "merged_settings", "plain_settings"]


def plain_settings(value: Any) -> Any:  # noqa: ANN401 - any config value
    """Copy a config's nested dicts and lists into plain ones, which builders may change."""
    if isinstance(value, Mapping):
        return {key: plain_settings(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain_settings(inner) for inner in value)
    return value


def merged_settings(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others, dict by dict; any other value replaces what was there."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = merged_settings(inner, value)
        merged[key] = value
    return merged


# Settings that change how a stage runs and not what comes out of it.
_IRRELEVANT = {
    "checkpoint_interval",
    "device",
    "licence",
    "keep_checkpoints",
    "log_interval",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "token_cache",
    "max_gb",
}


def flatten(settings: Mapping[str, Any] | Sequence[Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to "a.b.0.c" -> plain value, irrelevant ones left out."""
    return dict(_leaves(settings, prefix))


def _leaves(value: object, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        yield prefix, value if isinstance(value, bool | int | float | None) else str(value)
        return
    for key, inner in items:
        if key not in _IRRELEVANT:
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else key)
