"""What a method makes of one batch, and whose views are in it.

An image is one view to the networks, or several (a base view and tiles); a sample has one image, or
in a conversation any number. The vision side knows views alone: a batch's are behind each other,
and are put together to images when the language model reads them.

Shapes: B samples, V views of all samples (B where each has the one), N tokens of a view, D language
width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tove.modules.device import on_device
from tove.modules.tiles import Size, pack_images
from tove.protocols import Sample, VisionTokens

__all__ = ["Fused", "Views", "encoded", "read_by", "tokens_of_images", "view_ids"]


@dataclass(frozen=True, slots=True)
class Fused:
    """What the vision side makes of one batch.

    Attributes:
        t_fuse: [V, N, D], what the language model reads.
        v: [V, N, D], plain CLIP's part of it.
        gates: what a gate decided, with `weights` [V, N, K]; None without one.
        slots: the slot of every column of the gate's weights.
        absent: slots that took no part, detached or dropped.
        losses: what the vision side adds to the language loss in training, by name; mmengine sums
            those with "loss" in it and logs the others.
    """

    t_fuse: Tensor
    v: Tensor
    gates: Any = None
    slots: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    losses: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Views:
    """Where a batch's views come from, for losses that leave padding out or count by image.

    Attributes:
        content_V4: where each view shows its image and no padding: left, top, right, bottom in
            pixels of the view, see `tove.data.views.content_mask`.
        owner_V: the sample of each view.
        views_per_image: the number of views of each image, in the views' order.
        num_texts: samples that have no image.
    """

    content_V4: Tensor
    owner_V: Tensor
    views_per_image: tuple[int, ...]
    num_texts: int

    @classmethod
    def of(
        cls,
        content_V4: Tensor | None,
        owner_V: Tensor | None,
        data_samples: Sequence[Sample] | None,
    ) -> "Views | None":
        """Return the record of a batch that says of its views; None of one of whole images."""
        if content_V4 is None or owner_V is None:
            return None
        images = [[image["num_views"] for image in s["views"]] for s in data_samples or ()]
        counts = tuple(count for sample in images for count in sample)
        return cls(content_V4, owner_V, counts, sum(not sample for sample in images))


def view_ids(data_samples: Sequence[Sample] | None) -> list[str] | None:
    """Name each view of the samples' images, by which frozen tokens are cached."""
    if not data_samples:
        return None
    names = []
    for sample in data_samples:
        kind = sample.get("view", "")
        if "view_key" in sample:  # of its pixels, see `tove.modules.view_key`
            names.append(sample["view_key"])
            continue
        if "views" not in sample:
            names.append(f"{kind} {sample['image_id']}")
            continue
        paths = sample.get("image_paths", [sample["image_id"]])
        for path, image in zip(paths, sample["views"], strict=True):
            names += [f"{kind} {path} {number}" for number in range(image["num_views"])]
    return names


def encoded(network: Callable[[Tensor], Tensor], images_VCHW: Tensor) -> Tensor:
    """Run a network that trains, [V, N, C].

    Of a batch without an image it sees a blank one, whose tokens are left out: encoders refuse
    empty batches, and its parameters take part in the backward pass of every process.
    """
    if len(images_VCHW):
        return network(images_VCHW)
    return network(images_VCHW.new_zeros(1, *images_VCHW.shape[1:]))[:0]


def tokens_of_images(
    tokens_VND: Tensor, data_samples: Sequence[Sample], grid: Size, newline_D: Tensor | None
) -> VisionTokens:
    """Put the views of each image together, see `pack_images`.

    Args:
        tokens_VND: of all views.
        data_samples: B samples; those of a batch of single views say nothing of `views`.
        grid: rows and columns of the encoder's tokens.
        newline_D: the token after each row of tiles.
    """
    if not any("views" in sample for sample in data_samples):
        return tokens_VND
    return pack_images(tokens_VND, data_samples, grid, newline_D)


def read_by(vision: VisionTokens, data_samples: Sequence[Sample], rows: list[int]) -> VisionTokens:
    """Return what of a batch's vision tokens some of its samples read.

    Args:
        vision: of the whole batch.
        data_samples: the whole batch.
        rows: the samples' numbers.
    """
    if len(rows) == len(data_samples):
        return vision
    if isinstance(vision, Tensor):  # an image for each sample, or none in the batch
        return vision[on_device(rows, vision.device)] if len(vision) else vision
    images = iter(vision)
    own = [[next(images) for _ in sample["views"]] for sample in data_samples]
    found = [image for row in rows for image in own[row]]
    return found or vision[0][None, :0]
