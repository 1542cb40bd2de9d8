"""From a list of samples to a batch.

Shapes: B samples, S side of the shared view, in pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tove.registry import FUNCTIONS

__all__ = ["tove_collate"]


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
