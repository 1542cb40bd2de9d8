"""What a view of an image is known by: a digest of its pixels, which a changed image never has.

Shapes: S side of a view, in pixels.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ViewKey", "view_digest", "view_digests"]


class ViewKey(str):
    """The digest of a view's pixels; it can give the view again.

    Args:
        digest: of the pixels, see `view_digest`.
        size: side S of the view, in pixels.
        load: gives the view, uint8 [3, S, S]; None where nobody can.
        mirror_of: the digest of the view that this one is the mirror image of; "" for others.
    """

    size: int
    load: Callable[[], Tensor] | None
    mirror_of: str

    def __new__(
        cls,
        digest: str,
        size: int = 0,
        load: Callable[[], Tensor] | None = None,
        mirror_of: str = "",
    ) -> "ViewKey":
        """Make a text that has the others beside it."""
        key = super().__new__(cls, digest)
        key.size, key.load, key.mirror_of = size, load, mirror_of
        return key

    def __reduce__(self) -> tuple[type, tuple[str, int, Callable[[], Tensor] | None, str]]:
        return ViewKey, (str(self), self.size, self.load, self.mirror_of)


def view_digest(view: Tensor) -> str:
    """Return the sha256 of a view's shape and pixels, uint8 [3, S, S]."""
    digest = hashlib.sha256(f"{list(view.shape)} ".encode())
    digest.update(view.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def view_digests(images_BCHW: Tensor) -> list[str | None]:
    """Return the digest of each view of a batch in [0, 1]; None for pixels that no uint8 gives."""
    pixels_BCHW = (images_BCHW * 255).round().to(torch.uint8)
    same_B = (pixels_BCHW.float().div(255) == images_BCHW).flatten(1).all(1)
    return [
        view_digest(view) if same else None
        for view, same in zip(pixels_BCHW.cpu(), same_B.tolist(), strict=True)
    ]
