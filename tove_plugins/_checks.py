"""What a field of a spec may be. Whole numbers are ints, and True is no number."""

import re
import sys
from collections.abc import Mapping

from tove_plugins._errors import ExpertSpecError, SpecError

__all__ = [
    "check_keywords",
    "is_digest",
    "is_number",
    "is_numbers",
    "is_positive",
    "is_reference",
    "is_size",
    "is_text",
    "require",
]

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RESERVED = frozenset(
    {"spec", "weights", "sha256", "name", "tiny", "type", "device", "dtype", "licence"}
)


def require(holds: bool, message: str, error: type[SpecError] = ExpertSpecError) -> None:
    """Raise the message as an error of that kind where something does not hold."""
    if not holds:
        raise error(message)


def is_positive(value: object) -> bool:
    """Tell whether it is a whole number above zero."""
    return type(value) is int and value > 0


def is_size(value: object) -> bool:
    """Tell whether it is a tuple of two positive whole numbers."""
    return isinstance(value, tuple) and len(value) == 2 and all(map(is_positive, value))


def is_number(value: object) -> bool:
    """Tell whether it is a finite number; an int that no float can hold is none."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def is_numbers(value: object, count: int) -> bool:
    """Tell whether it is a tuple of so many finite numbers."""
    return isinstance(value, tuple) and len(value) == count and all(map(is_number, value))


def is_text(value: object) -> bool:
    """Tell whether it is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_reference(value: object) -> bool:
    """Tell whether it is "package.module:attribute"."""
    return isinstance(value, str) and bool(_REFERENCE.fullmatch(value))


def is_digest(value: object) -> bool:
    """Tell whether it is a sha256 as it is written."""
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def check_keywords(value: object, where: str) -> None:
    """Check what is to be passed to a factory by name.

    Raises:
        ExpertSpecError: No mapping, a key that cannot be a parameter's name, or one that is taken.
    """
    if not isinstance(value, Mapping):
        raise ExpertSpecError(
            f"{where} is a {type(value).__name__}; give a mapping of keyword arguments."
        )
    for key in value:
        require(
            isinstance(key, str) and key.isidentifier(),
            f"{where} has the key {key!r}, which cannot name a parameter of the factory; give "
            "letters, digits and underscores.",
        )
    taken = sorted(_RESERVED.intersection(value))
    require(
        not taken,
        f"{where} holds {', '.join(taken)}, which the SDK or the core passes or reads itself; "
        "choose another name.",
    )
