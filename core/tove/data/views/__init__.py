"""The square views of an image that networks see: one, or a base view and tiles."""

from collections.abc import Mapping
from typing import Any, Protocol

from PIL import Image

from tove.data.views.anyres import AnyResView
from tove.data.views.square import CropView, ImageViews, PadView, content_mask
from tove.errors import ConfigError

__all__ = [
    "AnyResView",
    "CropView",
    "ImageViews",
    "PadView",
    "View",
    "build_view",
    "content_mask",
]

_KINDS: dict[str, type] = {kind.kind: kind for kind in (CropView, PadView, AnyResView)}


class View(Protocol):
    """How an image becomes views.

    Attributes:
        kind: "crop", "pad" or "anyres".
        size: side of a view in pixels.
        name: tells apart views of the same image.
    """

    kind: str
    size: int
    name: str

    def __call__(self, image: Image.Image) -> ImageViews:
        """Make the views of an RGB image."""

    def most_tokens(self, grid: tuple[int, int]) -> int:
        """Return the most tokens that an image has, a view having rows and columns `grid`."""


def build_view(view: str | Mapping[str, Any], size: int) -> View:
    """Build what makes the views of an image.

    Args:
        view: a name, or a dict with it as `type` and the arguments of its class.
        size: side S of a view in pixels.

    Raises:
        ConfigError: there is no such view, or it does not take such arguments.
    """
    options = {"type": view} if isinstance(view, str) else dict(view)
    kind = options.pop("type", None)
    if kind not in _KINDS:
        raise ConfigError(
            f"The view of a data set is {kind!r}, but must be one of "
            f"{', '.join(map(repr, _KINDS))}."
        )
    try:
        return _KINDS[kind](size, **options)
    except TypeError as error:
        raise ConfigError(f"The view {kind!r} of a data set: {error}.") from error
