"""What a plugin says about an expert before anything of it is imported.

A run is planned from these alone: widths, grids, image geometry, weights, licences. They are
frozen, hold plain data, and are checked when they are made.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from tove_plugins._errors import ExpertSpecError

__all__ = ["API_VERSION", "ExpertSpec", "ImageSpec", "TokenSpec", "Weights"]

API_VERSION = 1
"""The contract that this SDK speaks; a spec that asks for a higher one is not used."""

Interpolation = Literal["bicubic", "bilinear"]
Kind = Literal["features", "map"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RESERVED = frozenset(
    {"spec", "weights", "sha256", "name", "tiny", "type", "device", "dtype", "licence"}
)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ExpertSpecError(message)


def _is_size(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(type(side) is int and side > 0 for side in value)
    )


def _is_triple(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all(isinstance(number, int | float) for number in value)
    )


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """The tokens that an expert gives for one image.

    Args:
        width: Length of one token.
        grid: (rows, columns); an image has rows * columns tokens, row by row.
        kind: "features" for a backbone's features, "map" for a predicted map such as depth.
    """

    width: int
    grid: tuple[int, int]
    kind: Kind = "features"

    def __post_init__(self) -> None:
        _require(
            type(self.width) is int and self.width > 0,
            f"TokenSpec.width is {self.width!r}; give a positive integer.",
        )
        _require(
            _is_size(self.grid),
            f"TokenSpec.grid is {self.grid!r}; give a tuple (rows, columns) of positive integers.",
        )
        _require(
            self.kind in get_args(Kind),
            f"TokenSpec.kind is {self.kind!r}; give 'features' or 'map'.",
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
        _require(
            _is_size(self.size),
            f"ImageSpec.size is {self.size!r}; give a tuple (height, width) of positive integers.",
        )
        for name, value in (("mean", self.mean), ("std", self.std)):
            _require(
                _is_triple(value),
                f"ImageSpec.{name} is {value!r}; give a tuple of three numbers (red, green, blue).",
            )
        _require(
            all(number > 0 for number in self.std),
            f"ImageSpec.std is {self.std!r}; each of the three must be above zero.",
        )
        _require(
            isinstance(self.value_range, tuple)
            and len(self.value_range) == 2
            and self.value_range[0] < self.value_range[1],
            f"ImageSpec.value_range is {self.value_range!r}; give (black, white), the lower first.",
        )
        _require(
            self.interpolation in get_args(Interpolation),
            f"ImageSpec.interpolation is {self.interpolation!r}; give 'bicubic' or 'bilinear'.",
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """Where an expert's weights are, and on what terms.

    Args:
        source: "hub:ORG/NAME[@REVISION][/FILE]", "pkg:PACKAGE/PATH" for a file inside an
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
        _require(
            isinstance(self.source, str) and bool(self.source.strip()),
            f"Weights.source is {self.source!r}; "
            "give 'hub:ORG/NAME', 'pkg:PACKAGE/FILE' or a path.",
        )
        _require(
            self.sha256 is None or bool(_SHA256.fullmatch(str(self.sha256))),
            f"Weights.sha256 is {self.sha256!r}; give 64 lower-case hexadecimal digits or None.",
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
        _require(
            type(self.api) is int and self.api >= 1,
            f"ExpertSpec.api of {self.name!r} is {self.api!r}; give a positive integer, now 1.",
        )
        if self.api > API_VERSION:
            return  # a newer contract may allow what this one forbids; discovery sets it aside
        self._check_names()
        self._check_parts()
        # Copies, so that nothing that the plugin keeps can change a frozen spec.
        object.__setattr__(self, "options", dict(self.options))
        object.__setattr__(self, "tiny", dict(self.tiny))

    def _check_names(self) -> None:
        _require(
            isinstance(self.name, str) and bool(_NAME.fullmatch(self.name)),
            f"ExpertSpec.name is {self.name!r}; use lower case letters, digits and underscores, "
            "a letter first.",
        )
        _require(
            isinstance(self.task, str) and bool(self.task.strip()),
            f"ExpertSpec.task of {self.name!r} is {self.task!r}; name the task, 'depth' say.",
        )
        _require(
            isinstance(self.factory, str) and bool(_FACTORY.fullmatch(self.factory)),
            f"ExpertSpec.factory of {self.name!r} is {self.factory!r}; "
            "give 'package.module:Class'.",
        )
        _require(
            self.resolve == ""
            or (isinstance(self.resolve, str) and bool(_FACTORY.fullmatch(self.resolve))),
            f"ExpertSpec.resolve of {self.name!r} is {self.resolve!r}; "
            "give 'package.module:function' or nothing.",
        )

    def _check_parts(self) -> None:
        for part, kind in (("tokens", TokenSpec), ("image", ImageSpec)):
            _require(
                isinstance(getattr(self, part), kind),
                f"ExpertSpec.{part} of {self.name!r} is a {type(getattr(self, part)).__name__}; "
                f"give a {kind.__name__}.",
            )
        _require(
            self.weights is None or isinstance(self.weights, Weights),
            f"ExpertSpec.weights of {self.name!r} is a {type(self.weights).__name__}; "
            "give Weights(...) or None.",
        )
        _require(
            isinstance(self.requires, tuple) and all(isinstance(r, str) for r in self.requires),
            f"ExpertSpec.requires of {self.name!r} is {self.requires!r}; give a tuple of strings, "
            "('timm>=1.0',) say.",
        )
        for part in ("options", "tiny"):
            value = getattr(self, part)
            _require(
                isinstance(value, Mapping),
                f"ExpertSpec.{part} of {self.name!r} is a {type(value).__name__}; give a mapping "
                "of keyword arguments.",
            )
            taken = sorted(_RESERVED.intersection(value))
            _require(
                not taken,
                f"ExpertSpec.{part} of {self.name!r} holds {', '.join(taken)}, which the SDK "
                "or the core passes or reads itself; choose another name.",
            )

    def as_dict(self) -> dict[str, Any]:
        """Give the spec as plain data, for listings and for provenance."""
        return asdict(self)
