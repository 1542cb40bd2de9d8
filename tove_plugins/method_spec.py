"""What a plugin says about a method before anything of it is imported.

A config names a method's classes by their `type`; from its spec the engine knows which package to
import for them. A spec is frozen, holds plain data, and is checked when it is made.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from tove_plugins._checks import is_text, require
from tove_plugins._errors import MethodSpecError
from tove_plugins._frozen import freeze, thaw
from tove_plugins._requirements import is_requirement

__all__ = ["METHOD_API_VERSION", "MethodSpec"]

METHOD_API_VERSION = 1
"""The contract between engine and methods, `tove.api`; one that asks for a higher is not used."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_TYPE = re.compile(r"[A-Z][A-Z_]*\.[A-Za-z_]\w*")
_require = partial(require, error=MethodSpecError)


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method: its name, where it is, and what of it a config can name.

    Args:
        name: What listings and `check` call it; lower case letters, digits and underscores.
        module: The module whose import registers its classes; imported only for a config that
            names one of `types`, so it may import torch and the engine.
        types: What that import registers and a config's `type` can name, as "REGISTRY.NAME":
            ("MODELS.MyMethod", "STAGES.MyStage"). The registries are those of `tove.api`.
        summary: One line for the listing.
        paper: Where it is described, "arXiv:2504.00691" say; "" where it is not.
        licence: Of its code: SPDX identifier, or the name by which the licence is known.
        requires: Requirements of the module beyond its distribution's own, as pip writes them.
        tiny: Settings of its models for the small build that `check` makes, those that have no
            default among them.
        api: The `METHOD_API_VERSION` that it was written for.
    """

    name: str
    module: str
    types: tuple[str, ...]
    summary: str = ""
    paper: str = ""
    licence: str = "unknown"
    requires: tuple[str, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict, hash=False)
    api: int = 1

    def __post_init__(self) -> None:
        _require(
            type(self.api) is int and self.api >= 1,
            f"MethodSpec.api of {self.name!r} is {self.api!r}; give a positive integer, now "
            f"{METHOD_API_VERSION}.",
        )
        if self.api > METHOD_API_VERSION:
            return  # a newer contract may allow what this one forbids; discovery sets it aside
        self._check_names()
        self._check_types()
        self._check_requires()
        _require(
            isinstance(self.tiny, Mapping) and all(isinstance(key, str) for key in self.tiny),
            f"MethodSpec.tiny of {self.name!r} is {self.tiny!r}; give a mapping of settings.",
        )
        object.__setattr__(self, "tiny", freeze(self.tiny))

    def _check_names(self) -> None:
        _require(
            isinstance(self.name, str) and bool(_NAME.fullmatch(self.name)),
            f"MethodSpec.name is {self.name!r}; use lower case letters, digits and underscores, "
            "a letter first.",
        )
        _require(
            isinstance(self.module, str) and bool(_MODULE.fullmatch(self.module)),
            f"MethodSpec.module of {self.name!r} is {self.module!r}; give 'package.module'.",
        )
        for part in ("summary", "paper", "licence"):
            text = getattr(self, part)
            _require(
                isinstance(text, str),
                f"MethodSpec.{part} of {self.name!r} is {text!r}; give a string.",
            )
        _require(
            is_text(self.licence),
            f"MethodSpec.licence of {self.name!r} is empty; give 'unknown' where it is not known.",
        )

    def _check_types(self) -> None:
        _require(
            isinstance(self.types, tuple) and len(self.types) > 0,
            f"MethodSpec.types of {self.name!r} is {self.types!r}; give a tuple of what a config "
            "can name, ('MODELS.MyMethod',) say.",
        )
        for text in self.types:
            _require(
                isinstance(text, str) and bool(_TYPE.fullmatch(text)),
                f"MethodSpec.types of {self.name!r} holds {text!r}; write a registry and a name "
                "in it, 'MODELS.MyMethod' say.",
            )
        _require(
            len(set(self.types)) == len(self.types),
            f"MethodSpec.types of {self.name!r} names one twice: {', '.join(self.types)}.",
        )

    def _check_requires(self) -> None:
        _require(
            isinstance(self.requires, tuple) and all(isinstance(r, str) for r in self.requires),
            f"MethodSpec.requires of {self.name!r} is {self.requires!r}; give a tuple of strings, "
            "('einops>=0.8',) say.",
        )
        for text in self.requires:
            _require(
                is_requirement(text),
                f"MethodSpec.requires of {self.name!r} holds {text!r}, which is not a requirement "
                "that pip can read; write it as 'einops>=0.8'.",
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the spec as plain data, for listings."""
        given = {part.name: getattr(self, part.name) for part in fields(self)}
        return given | {"tiny": thaw(self.tiny)}
