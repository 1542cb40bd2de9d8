"""From a list of samples to a batch.

Shapes: B samples, S side of the shared view, in pixels; V views of all samples together.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tove.registry import FUNCTIONS

__all__ = ["conversation_collate", "tove_collate"]


@FUNCTIONS.register_module()
def tove_collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack the views of the samples of a data set.

    Args:
        batch: B times dict(image=uint8 [3, S, S], sample=dict).

    Returns:
        dict(images=uint8 [B, 3, S, S], data_samples=list of B dicts).
    """
    return dict(
        images=torch.stack([item["image"] for item in batch]),
        data_samples=[item["sample"] for item in batch],
    )


@FUNCTIONS.register_module()
def conversation_collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the views of samples with none, one or several images behind each other.

    Args:
        batch: B samples of `LlavaConversations`.

    Returns:
        dict(images=uint8 [V, 3, S, S], content=int64 [V, 4], owner=int64 [V], the sample of each
        view; data_samples=list of B dicts). Which views are of which image, each sample's `views`
        tells. V is 0 where no sample has an image.
    """
    counts = torch.tensor([len(item["images"]) for item in batch])
    return dict(
        images=torch.cat([item["images"] for item in batch]),
        content=torch.cat([item["content"] for item in batch]),
        owner=torch.arange(len(batch)).repeat_interleave(counts),
        data_samples=[item["sample"] for item in batch],
    )
