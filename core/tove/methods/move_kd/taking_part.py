"""Which views and patches a batch's losses are means over, and how each teacher sees the views.

    view v of image i     weighs 1 / (views of i that show something of it)
    sample without image  has no view ("masked"), or a black one ("distilled", as released)
    batch without image   one black view that weighs nothing: all that trains takes part
    patch of a border     counts for nothing ("masked"), or as any other ("distilled", as released)
    border of a view      the colour that it has ("shared"), or each teacher's mean ("released")

Shapes: V views, those of black images last, S side of a view in pixels, N patches, P = 1 + N
positions, class first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tove.data.views import content_mask
from tove.errors import ConfigError
from tove.methods.batch import Views
from tove.methods.move_kd.presets import Switches
from tove.modules.device import on_device
from tove.modules.masked_mean import view_weights
from tove_plugins import ImageSpec

__all__ = ["TakingPart", "check_view", "taking_part"]

_BLACK = "black"  # the id of what stands for no image, by which its tokens are cached


@dataclass(frozen=True, slots=True)
class TakingPart:
    """What of a batch is distilled and balanced.

    Attributes:
        images_VCHW: in [0, 1].
        ids: one a view, by which frozen tokens are cached; None caches none.
        valid_VN: False for patches that do not count.
        weights_V: of each view in a mean over images.
        content_V4: see `Views`; None where nothing is said of borders.
    """

    images_VCHW: Tensor
    ids: list[str] | None
    valid_VN: Tensor
    weights_V: Tensor
    content_V4: Tensor | None = None

    @property
    def valid_VP(self) -> Tensor:
        """False for positions that do not count; the class token's does."""
        return F.pad(self.valid_VN, (1, 0), value=True)

    def seen_by(self, image: ImageSpec) -> "TakingPart":
        """Return the same with borders in a teacher's mean colour, as its own processor has it."""
        if self.content_V4 is None:
            return self
        low, high = image.value_range
        mean = [int((value - low) / (high - low) * 255) / 255 for value in image.mean]
        side = self.images_VCHW.shape[-1]
        inside_VN = content_mask(self.content_V4, side, (side, side))
        images_VCHW = torch.where(
            inside_VN.view(-1, 1, side, side),
            self.images_VCHW,
            self.images_VCHW.new_tensor(mean)[:, None, None],
        )
        ids = self.ids and [f"{name} on {mean}" for name in self.ids]
        return TakingPart(images_VCHW, ids, self.valid_VN, self.weights_V, self.content_V4)


def taking_part(
    read: Switches,
    images_VCHW: Tensor,
    ids: Sequence[str] | None,
    views: Views | None,
    grid: tuple[int, int],
) -> TakingPart:
    """Tell what of a batch is distilled and balanced.

    Args:
        read: text_only, padding and geometry count.
        images_VCHW: of the batch, in [0, 1].
        ids: one a view.
        views: of conversations; None is a whole image each.
        grid: of the student's tokens.
    """
    names = None if ids is None else list(ids)
    if views is None:
        valid_VN = images_VCHW.new_ones(len(images_VCHW), grid[0] * grid[1], dtype=torch.bool)
        return TakingPart(images_VCHW, names, valid_VN, images_VCHW.new_ones(len(images_VCHW)))
    content_V4, views_of = views.content_V4, list(views.views_per_image)
    none = not len(images_VCHW)
    num_black = views.num_texts if read.text_only == "distilled" else int(none)
    if num_black:
        side = images_VCHW.shape[-1]
        black = images_VCHW.new_zeros(num_black, 3, side, side)
        whole = on_device([[0, 0, side, side]] * num_black, content_V4.device)
        images_VCHW = torch.cat([images_VCHW, black])
        content_V4 = torch.cat([content_V4, whole])
        names = None if names is None else names + [_BLACK] * num_black
        views_of += [1] * num_black
    if read.padding == "masked":
        valid_VN = content_mask(content_V4, images_VCHW.shape[-1], grid)
    else:
        valid_VN = images_VCHW.new_ones(len(images_VCHW), grid[0] * grid[1], dtype=torch.bool)
    image_of = [number for number, count in enumerate(views_of) for _ in range(count)]
    image_V = on_device(image_of, images_VCHW.device)
    weights_V = view_weights(image_V, len(views_of), valid_VN.any(-1))
    if none and read.text_only == "masked":
        weights_V = torch.zeros_like(weights_V)
    content = content_V4 if read.geometry == "released" else None
    return TakingPart(images_VCHW, names, valid_VN, weights_V, content)


def check_view(read: Switches, kind: str) -> None:
    """Refuse a data set whose images are shown in a way that the switches do not know.

    Args:
        read: any_resolution and geometry count.
        kind: of the view, "crop", "pad" or "anyres".

    Raises:
        ConfigError: they do not; what to change is said.
    """
    if kind == "anyres" and read.any_resolution == "refused":
        raise ConfigError(
            "The training data shows images by the view 'anyres', which the switch "
            "any_resolution='refused' does not take, as the release cannot; set "
            "model.switches=dict(any_resolution='views', adapter='resample'), or the view 'pad'."
        )
    if read.geometry == "released" and kind != "pad":
        raise ConfigError(
            "The switch geometry='released' gives every teacher its own borders, which the view "
            f"'{kind}' of the training data has none of: out of a central square or of tiles "
            "nobody can make the whole image that one of the release's teachers pads there. Set "
            "model.switches=dict(geometry='shared') in this stage, or the view 'pad'."
        )
