"""Expert dropout: in some training steps a random number of experts sits out.

Every number of them is as likely, from one to all: detachment goes down to none, so the model has
to have met each. Ours; the paper does not say what keeps detachment graceful.
"""

from collections.abc import Sequence

import torch

__all__ = ["draw_dropped"]


def draw_dropped(
    slots: Sequence[str], probability: float, generator: torch.Generator | None
) -> frozenset[str]:
    """Draw which experts sit this step out; for the whole batch, and the same on all ranks.

    Args:
        slots: all experts.
        probability: of a step in which any sits out.
        generator: the model's `shared_generator`; None is torch's own, which differs by rank.
    """
    if not (probability and slots):
        return frozenset()
    if torch.rand((), generator=generator).item() >= probability:
        return frozenset()
    number = int(torch.randint(1, len(slots) + 1, (), generator=generator))
    order = torch.randperm(len(slots), generator=generator).tolist()
    return frozenset(slots[i] for i in order[:number])
