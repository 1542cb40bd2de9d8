"""Expert dropout: in some training steps a random number of experts sits out.

Every number of them is as likely, from one to all: detachment goes down to none, so the model has
to have met each. Ours; the paper does not say what keeps detachment graceful.
"""

from collections.abc import Sequence

import torch

from tove.engine.seeding import agreed_generator

__all__ = ["draw_dropped"]


def draw_dropped(slots: Sequence[str], probability: float) -> frozenset[str]:
    """Draw which experts sit this step out; for the whole batch, and the same on all ranks.

    Args:
        slots: all experts.
        probability: of a step in which any sits out.
    """
    if not (probability and slots):
        return frozenset()
    agreed = agreed_generator()
    if torch.rand((), generator=agreed).item() >= probability:
        return frozenset()
    number = int(torch.randint(1, len(slots) + 1, (), generator=agreed))
    order = torch.randperm(len(slots), generator=agreed).tolist()
    return frozenset(slots[i] for i in order[:number])
