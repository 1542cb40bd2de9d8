"""From a list of samples to a batch.

Shapes: B samples, S side of a view in pixels, V views of all samples together.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tove.registry import FUNCTIONS

__all__ = ["tove_collate"]


@FUNCTIONS.register_module()
def tove_collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the views of the samples of data sets behind each other.

    Args:
        batch: B samples, each dict(image=uint8 [3, S, S], sample=dict) with the one view of its
            image, or of `LlavaConversations`, with any number of views of any number of images.

    Returns:
        dict(images=uint8 [V, 3, S, S], data_samples=list of B dicts). Where a sample is a
        conversation also content=int64 [V, 4], where each view shows its image, and owner=int64
        [V], the sample of each view; which views are of which image, each sample's `views` tells,
        and V is 0 where no sample has an image. `image` is None where all that is wanted of it is
        known, see `tove.data.known_views`; where it is in all samples, images is [B, 3, 0, S].
    """
    if all("image" in item and item["image"] is None for item in batch):
        samples = [item["sample"] for item in batch]
        size = max(sample["view_key"].size for sample in samples)
        return dict(images=torch.empty(len(batch), 3, 0, size).byte(), data_samples=samples)
    batch = [_loaded(item) for item in batch]
    if all("image" in item for item in batch):
        return dict(
            images=torch.stack([item["image"] for item in batch]),
            data_samples=[item["sample"] for item in batch],
        )
    items = [_viewed(item) if "image" in item else item for item in batch]
    counts = torch.tensor([len(item["images"]) for item in items])
    return dict(
        images=torch.cat([item["images"] for item in items]),
        content=torch.cat([item["content"] for item in items]),
        owner=torch.arange(len(items)).repeat_interleave(counts),
        data_samples=[item["sample"] for item in items],
    )


def _loaded(item: dict[str, Any]) -> dict[str, Any]:
    """Return a sample with its image, which others of the batch have."""
    if item.get("image", item) is not None:
        return item
    return {**item, "image": item["sample"]["view_key"].load()}


def _viewed(item: dict[str, Any]) -> dict[str, Any]:
    """Say of a sample with one view of its image what a conversation says of its views."""
    side = item["image"].shape[-1]
    views = [dict(size=(side, side), tiles=None, num_views=1)]
    return dict(
        images=item["image"][None],
        content=torch.tensor([[0, 0, side, side]]),
        sample={**item["sample"], "views": views},
    )
