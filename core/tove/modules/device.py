"""Small tensors made on the host and needed on a device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["on_device"]


def on_device(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Make an int64 tensor of nested lists, without waiting for what its device has still to do.

    A copy from ordinary memory to a GPU waits for all that was queued before it: CLIP and experts.
    """
    made = torch.tensor(numbers, dtype=torch.int64)
    if device.type == "cuda":
        return made.pin_memory().to(device, non_blocking=True)
    return made.to(device)
