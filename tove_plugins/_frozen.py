"""Options that nobody can change: what a spec holds is copied, and refuses to be written to.

They are dicts and lists still, for JSON, pickle and a factory's isinstance know those alone.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["FrozenDict", "FrozenList", "freeze", "thaw"]


def _refuse(self: object, *arguments: object, **keywords: object) -> NoReturn:
    raise TypeError(
        "The options of a spec cannot be changed; copy them, or make another spec with "
        "dataclasses.replace(spec, options=...)."
    )


class FrozenDict(dict[Any, Any]):
    """A dict that cannot be written to."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[Any, Any]]]:
        # pickle and copy would fill an empty one item by item
        return type(self), (dict(self),)


class FrozenList(list[Any]):
    """A list that cannot be written to."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce__(self) -> tuple[type, tuple[list[Any]]]:
        return type(self), (list(self),)


def freeze(value: Any) -> Any:  # noqa: ANN401 - any option
    """Copy mappings, lists and tuples at every depth; other values are plain, and are kept."""
    if type(value) in (FrozenDict, FrozenList):
        return value
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return FrozenList(freeze(inner) for inner in value)
    if type(value) is tuple:
        return tuple(freeze(inner) for inner in value)
    return value


def thaw(value: Any) -> Any:  # noqa: ANN401 - any option
    """Give what was frozen as dicts and lists that the caller may change."""
    if isinstance(value, FrozenDict):
        return {key: thaw(inner) for key, inner in value.items()}
    if isinstance(value, FrozenList):
        return [thaw(inner) for inner in value]
    if type(value) is tuple:
        return tuple(thaw(inner) for inner in value)
    return value
