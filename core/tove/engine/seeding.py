"""The random numbers of a training step, from seed, iteration and rank.

What all ranks have to decide alike (which experts sit a step out) is drawn from a generator that
the training gives its model; what each does with its own samples (gate noise, dropout) from
torch's, which differ by rank. Both are seeded anew at every step, so that a resumed run draws what
an uninterrupted one would.
"""

import random

import numpy as np
import torch
from mmengine.dist import get_rank

__all__ = ["seed_everything", "seed_step"]

# numpy takes 32 bits.
_SEED_RANGE = 2**32
_STEP_STRIDE = 1_000_003  # above any number of steps of a stage, and prime
_RANK_STRIDE = 2_654_435_761  # a prime near 2^32 over the golden ratio: ranks lie far apart


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch on every device."""
    seed %= _SEED_RANGE
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)


def seed_step(seed: int, iteration: int, shared: torch.Generator) -> None:
    """Seed all generators for a step.

    Seed and iteration are mixed by a large prime: with their sum, run 1 would repeat run 0's draws
    one step later, and seeds would not be independent.

    Args:
        seed: the run's.
        iteration: the step's.
        shared: the generator from which all ranks draw the same.
    """
    step = seed * _STEP_STRIDE + iteration
    seed_everything(step + get_rank() * _RANK_STRIDE)
    shared.manual_seed(step % _SEED_RANGE)
