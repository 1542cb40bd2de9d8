"""What each of several experts adds to a score, from the scores of sets of experts.

With v(S) the score of a model that runs the set S of its K experts, an expert's contribution is a
weighted mean of what it adds to sets without it:

    leave-one-out   v(all) - v(all - k)             what is lost when it alone goes
    add-one-in      v({k}) - v({})                  what it brings alone
    Shapley         sum_S |S|! (K - |S| - 1)! / K!  (v(S + k) - v(S)),  S without k

Shapley's value is the mean over all orders in which experts may come (Shapley, 1953): the values
add up to v(all) - v({}), experts that are alike have equal ones, and one that changes nothing has
0. It takes 2^K scores. Where these are too many, orders are drawn (Castro et al., 2009): each gives
every expert one difference, the mean of which is unbiased and has the usual standard error.

K is the number of experts.
"""

import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

__all__ = [
    "EXACT_TO",
    "Addition",
    "Additions",
    "Coalition",
    "add_one_in",
    "contribution",
    "leave_one_out",
    "needed",
    "pareto_front",
    "shapley",
    "standard_error",
    "subsets",
]

EXACT_TO = 8
"""Experts up to which all 2^K sets are scored."""

Coalition = frozenset[str]
"""The experts that run."""


class Addition(NamedTuple):
    """One expert's joining of a set, and what it weighs in the mean."""

    before: Coalition
    weight: float


Additions = Mapping[str, Sequence[Addition]]
"""By expert, the additions that its contribution is the mean of."""


def subsets(experts: Sequence[str]) -> list[Coalition]:
    """Return all sets of experts, the smallest first."""
    sizes = range(len(experts) + 1)
    return [frozenset(chosen) for size in sizes for chosen in combinations(experts, size)]


def leave_one_out(experts: Sequence[str]) -> Additions:
    """Return each expert's joining of all others."""
    return {expert: [Addition(frozenset(experts) - {expert}, 1.0)] for expert in experts}


def add_one_in(experts: Sequence[str]) -> Additions:
    """Return each expert's joining of none."""
    return {expert: [Addition(frozenset(), 1.0)] for expert in experts}


def shapley(
    experts: Sequence[str], permutations: int = 64, seed: int = 0, exact_to: int = EXACT_TO
) -> Additions:
    """Return the additions of Shapley's values.

    Args:
        experts: K of them.
        permutations: orders that are drawn where K is above `exact_to`; at least two.
        seed: of the drawing.
        exact_to: number of experts up to which every set counts.
    """
    if len(experts) > exact_to:
        return _drawn(experts, permutations, seed)
    count = len(experts)
    weights = [
        math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
        for size in range(count)
    ]
    return {
        expert: [Addition(s, weights[len(s)]) for s in subsets([e for e in experts if e != expert])]
        for expert in experts
    }


def _drawn(experts: Sequence[str], permutations: int, seed: int) -> Additions:
    generator = random.Random(seed)
    additions: dict[str, list[Addition]] = {expert: [] for expert in experts}
    for _ in range(permutations):
        order = generator.sample(list(experts), len(experts))
        for place, expert in enumerate(order):
            additions[expert].append(Addition(frozenset(order[:place]), 1 / permutations))
    return additions


def needed(*measures: Additions) -> set[Coalition]:
    """Return the sets of experts whose scores the measures are made of."""
    return {
        joined
        for additions in measures
        for expert, own in additions.items()
        for addition in own
        for joined in (addition.before, addition.before | {expert})
    }


def contribution(additions: Additions, value: Callable[[Coalition], Any]) -> dict[str, Any]:
    """Return what each expert adds.

    Args:
        additions: of the measure.
        value: the score of a set of experts; or its scores of n items, an array [n], as are the
            contributions then: their means are those of the mean score.
    """
    return {
        expert: sum(w * (value(before | {expert}) - value(before)) for before, w in own)
        for expert, own in additions.items()
    }


def standard_error(additions: Additions, value: Callable[[Coalition], float]) -> dict[str, float]:
    """Return the standard errors of contributions that are means over drawn orders.

    Args:
        additions: of equal weights, at least two for each expert.
        value: the score of a set of experts.
    """
    return {
        expert: statistics.stdev(value(before | {expert}) - value(before) for before, _ in own)
        / math.sqrt(len(own))
        for expert, own in additions.items()
    }


def pareto_front(points: Iterable[tuple[float, float]]) -> list[int]:
    """Return the positions of the points that no other one beats, the cheapest first.

    Args:
        points: (cost, score): less of the one is better, more of the other.
    """
    points = list(points)
    ordered = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for index in ordered:
        best = points[front[-1]] if front else (-math.inf, -math.inf)
        if points[index][1] > best[1] or points[index] == best:
            front.append(index)
    return front
