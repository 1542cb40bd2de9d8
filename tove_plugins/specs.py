"""What a plugin says about an expert before anything of it is imported.

A run is planned from these alone: widths, grids, image geometry, weights, licences. They are
frozen, hold plain data, and are checked when they are made.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from tove_plugins._checks import (
    check_keywords,
    is_digest,
    is_number,
    is_numbers,
    is_positive,
    is_reference,
    is_size,
    is_text,
    require,
)
from tove_plugins._frozen import freeze, thaw
from tove_plugins._requirements import is_requirement

__all__ = ["API_VERSION", "ExpertSpec", "ImageSpec", "TokenSpec", "Weights"]

API_VERSION = 1
"""The contract that this SDK speaks; a spec that asks for a higher one is not used."""

Interpolation = Literal["bicubic", "bilinear"]
Kind = Literal["features", "map"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """The tokens that an expert gives for one image.

    Args:
        width: Length of one token.
        grid: (rows, columns); an image has rows * columns tokens, row by row.
        kind: "features" for a backbone's features, "map" for a predicted map such as depth.
        mirrors: Whether a mirrored image gives the mirrored grid, as trained networks rarely do;
            the tokens of the one are then kept for the other as well.
    """

    width: int
    grid: tuple[int, int]
    kind: Kind = "features"
    mirrors: bool = False

    def __post_init__(self) -> None:
        require(
            is_positive(self.width),
            f"TokenSpec.width is {self.width!r}; give a positive integer.",
        )
        require(
            is_size(self.grid),
            f"TokenSpec.grid is {self.grid!r}; give a tuple (rows, columns) of positive integers.",
        )
        require(
            self.kind in get_args(Kind),
            f"TokenSpec.kind is {self.kind!r}; give 'features' or 'map'.",
        )
        require(
            isinstance(self.mirrors, bool),
            f"TokenSpec.mirrors is {self.mirrors!r}; give True or False.",
        )

    @property
    def num_tokens(self) -> int:
        """The number of tokens of one image."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """The image that an expert takes; the core resizes and normalises to it on the device.

    Args:
        size: (height, width) in pixels.
        mean: Per RGB channel, subtracted after scaling to `value_range`.
        std: Per RGB channel, divided by afterwards.
        value_range: What black and white are before the normalisation, (0, 1) or (0, 255) say.
        interpolation: How the image is resized.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    value_range: tuple[float, float] = (0.0, 1.0)
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        require(
            is_size(self.size),
            f"ImageSpec.size is {self.size!r}; give a tuple (height, width) of positive integers.",
        )
        for name, value in (("mean", self.mean), ("std", self.std)):
            require(
                is_numbers(value, 3),
                f"ImageSpec.{name} is {value!r}; give a tuple of three finite numbers "
                "(red, green, blue).",
            )
        require(
            all(number > 0 for number in self.std),
            f"ImageSpec.std is {self.std!r}; each of the three must be above zero.",
        )
        require(
            is_numbers(self.value_range, 2) and self.value_range[0] < self.value_range[1],
            f"ImageSpec.value_range is {self.value_range!r}; give a tuple of two finite "
            "numbers (black, white), the lower first.",
        )
        require(
            self.interpolation in get_args(Interpolation),
            f"ImageSpec.interpolation is {self.interpolation!r}; give 'bicubic' or 'bilinear'.",
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """Where an expert's weights are, and on what terms.

    Args:
        source: `hub:ORG/NAME[@REVISION][/FILE]`, "pkg:PACKAGE/PATH" for a file inside an
            installed package, "https://..." for a file, or a path.
        sha256: Digest that `sha256_of` gives for the file or folder; checked before every use.
        size_mb: Size on disk.
        licence: SPDX identifier, or the name by which the licence is known.
        trained_on: The data, in a few words.
        commercial_use: Whether the licence allows it.
    """

    source: str
    sha256: str | None = None
    size_mb: float = 0.0
    licence: str = "unknown"
    trained_on: str = "unknown"
    commercial_use: bool = False

    def __post_init__(self) -> None:
        require(
            is_text(self.source),
            f"Weights.source is {self.source!r}; "
            "give 'hub:ORG/NAME', 'pkg:PACKAGE/FILE' or a path.",
        )
        require(
            self.sha256 is None or is_digest(self.sha256),
            f"Weights.sha256 is {self.sha256!r}; give 64 lower-case hexadecimal digits or None.",
        )
        require(
            is_number(self.size_mb) and self.size_mb >= 0,
            f"Weights.size_mb is {self.size_mb!r}; give a number of megabytes, 0 or more.",
        )
        for name, text in (("licence", self.licence), ("trained_on", self.trained_on)):
            require(
                isinstance(text, str),
                f"Weights.{name} is {text!r}; give a string, 'unknown' where it is not known.",
            )
        require(
            isinstance(self.commercial_use, bool),
            f"Weights.commercial_use is {self.commercial_use!r}; give True or False, and False "
            "where it is not known.",
        )


@dataclass(frozen=True, slots=True)
class ExpertSpec:
    """One expert: its name, what it takes, what it gives, and where its factory is.

    Args:
        name: The name that configs use; lower case letters, digits and underscores.
        task: What it was trained for ("depth", "segmentation", ...).
        factory: "package.module:Class", imported only when the expert is built.
        tokens: What it gives.
        image: What it takes.
        weights: Its trained weights; None if it has none.
        api: The `API_VERSION` that it was written for.
        requires: Requirements of the factory beyond its distribution's own, as pip writes them.
        options: Default keyword arguments of the factory; a config's override them.
        tiny: Keyword arguments of a small build with random weights that needs no network and
            gives tokens of the same shape; over `options`.
        resolve: "package.module:function" that gives the spec of a build whose weights or options
            are not this spec's own: `resolve(spec=..., weights=..., **options)`, called as the
            factory is and before it; "" where tokens and image never depend on them.
        description: One line for the listing.
    """

    name: str
    task: str
    factory: str
    tokens: TokenSpec
    image: ImageSpec
    weights: Weights | None = None
    api: int = 1
    requires: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tiny: Mapping[str, Any] = field(default_factory=dict, hash=False)
    resolve: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        require(
            type(self.api) is int and self.api >= 1,
            f"ExpertSpec.api of {self.name!r} is {self.api!r}; give a positive integer, now 1.",
        )
        if self.api > API_VERSION:
            return  # a newer contract may allow what this one forbids; discovery sets it aside
        self._check_names()
        self._check_parts()
        # Copies at every depth, so that nothing that the plugin keeps can change a spec.
        object.__setattr__(self, "options", freeze(self.options))
        object.__setattr__(self, "tiny", freeze(self.tiny))

    def _check_names(self) -> None:
        require(
            isinstance(self.name, str) and bool(_NAME.fullmatch(self.name)),
            f"ExpertSpec.name is {self.name!r}; use lower case letters, digits and underscores, "
            "a letter first.",
        )
        require(
            is_text(self.task),
            f"ExpertSpec.task of {self.name!r} is {self.task!r}; name the task, 'depth' say.",
        )
        require(
            is_reference(self.factory),
            f"ExpertSpec.factory of {self.name!r} is {self.factory!r}; "
            "give 'package.module:Class'.",
        )
        require(
            self.resolve == "" or is_reference(self.resolve),
            f"ExpertSpec.resolve of {self.name!r} is {self.resolve!r}; "
            "give 'package.module:function' or nothing.",
        )
        require(
            isinstance(self.description, str),
            f"ExpertSpec.description of {self.name!r} is {self.description!r}; give a string, one "
            "line for the listing.",
        )

    def _check_parts(self) -> None:
        for part, kind in (("tokens", TokenSpec), ("image", ImageSpec)):
            require(
                isinstance(getattr(self, part), kind),
                f"ExpertSpec.{part} of {self.name!r} is a {type(getattr(self, part)).__name__}; "
                f"give a {kind.__name__}.",
            )
        require(
            self.weights is None or isinstance(self.weights, Weights),
            f"ExpertSpec.weights of {self.name!r} is a {type(self.weights).__name__}; "
            "give Weights(...) or None.",
        )
        require(
            isinstance(self.requires, tuple) and all(isinstance(r, str) for r in self.requires),
            f"ExpertSpec.requires of {self.name!r} is {self.requires!r}; give a tuple of strings, "
            "('timm>=1.0',) say.",
        )
        for text in self.requires:
            require(
                is_requirement(text),
                f"ExpertSpec.requires of {self.name!r} holds {text!r}, which is not a requirement "
                "that pip can read; write it as 'timm>=1.0'.",
            )
        for part in ("options", "tiny"):
            check_keywords(getattr(self, part), f"ExpertSpec.{part} of {self.name!r}")

    def as_dict(self) -> dict[str, Any]:
        """Give the spec as plain data, for listings and for provenance."""
        given = {part.name: getattr(self, part.name) for part in fields(self)}
        parts = {
            "tokens": asdict(self.tokens),
            "image": asdict(self.image),
            "weights": None if self.weights is None else asdict(self.weights),
            # Without asdict, which copies the values: a stranger's may not be copied.
            "options": thaw(self.options),
            "tiny": thaw(self.tiny),
        }
        return given | parts
