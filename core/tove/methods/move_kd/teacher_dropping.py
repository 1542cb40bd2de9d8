"""Teacher dropping (UNIC, arXiv 2408.05088): the student learns most from whom it is furthest from.

    c_bt = 1            for the teacher t with the largest loss of image b
    c_bt ~ Bern(1 - p)  for the others, drawn anew for every image and step

Shapes: B images, T teachers.
"""

import torch
from torch import Tensor

__all__ = ["kept_teachers"]


def kept_teachers(
    loss_BT: Tensor, probability: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return c [B, T], what the teachers' weights are multiplied by.

    Args:
        loss_BT: every teacher's loss for every image, comparable between teachers: normalised
            targets, before weights.
        probability: p, of dropping a teacher that is not the furthest.
        generator: of the draw, on the losses' device.
    """
    loss_BT = loss_BT.detach()
    kept_BT = torch.full_like(loss_BT, 1 - probability).bernoulli(generator=generator)
    return kept_BT.scatter(1, loss_BT.argmax(1, keepdim=True), 1.0)
