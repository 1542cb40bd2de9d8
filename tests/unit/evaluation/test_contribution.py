"""Contributions on made-up games, against the definitions spelt out."""

import math
import random
import statistics
from collections.abc import Callable
from itertools import permutations

import pytest

from tove.evaluation.contribution import (
    Coalition,
    add_one_in,
    contribution,
    leave_one_out,
    needed,
    pareto_front,
    shapley,
    standard_error,
    subsets,
)

Game = Callable[[Coalition], float]


def random_game(experts: str, seed: int = 0) -> Game:
    generator = random.Random(seed)
    values = {kept: generator.uniform(-1, 1) for kept in subsets(experts)}
    return values.__getitem__


def over_all_orders(experts: str, game: Game) -> dict[str, float]:
    """Shapley's value by its definition: the mean over K! orders of arrival."""
    added: dict[str, list[float]] = {expert: [] for expert in experts}
    for order in permutations(experts):
        for place, expert in enumerate(order):
            before = frozenset(order[:place])
            added[expert].append(game(before | {expert}) - game(before))
    return {expert: statistics.fmean(values) for expert, values in added.items()}


@pytest.mark.parametrize("experts", ["a", "ab", "abcde"])
def test_shapley_is_the_mean_over_all_orders(experts: str):
    game = random_game(experts)
    assert contribution(shapley(experts), game) == pytest.approx(over_all_orders(experts, game))


def test_shapley_s_values_add_up_to_the_whole_gain():
    game = random_game("abcdefgh")
    found = contribution(shapley("abcdefgh"), game)
    assert math.fsum(found.values()) == pytest.approx(
        game(frozenset("abcdefgh")) - game(frozenset())
    )


def test_of_two_that_are_alike_each_has_the_half_and_one_that_adds_nothing_has_none():
    # a and b do the same; either is enough. c does nothing.
    def game(kept: Coalition) -> float:
        return 1.0 if kept & {"a", "b"} else 0.0

    assert contribution(shapley("abc"), game) == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert contribution(leave_one_out("abc"), game) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert contribution(add_one_in("abc"), game) == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_first_and_last_are_what_they_are_called():
    game = random_game("abc", 3)
    everything = frozenset("abc")
    last = contribution(leave_one_out("abc"), game)
    assert last == {e: game(everything) - game(everything - {e}) for e in "abc"}
    first = contribution(add_one_in("abc"), game)
    assert first == {e: game(frozenset(e)) - game(frozenset()) for e in "abc"}
    assert len(needed(leave_one_out("abc"), add_one_in("abc"))) == 8


def test_up_to_eight_experts_every_set_counts_and_beyond_some_do():
    assert needed(shapley("abcdefgh")) == set(subsets("abcdefgh"))
    drawn = needed(shapley("abcdefghi", permutations=5))
    assert len(drawn) <= 2 + 5 * 8
    assert {frozenset(), frozenset("abcdefghi")} <= drawn


def test_drawn_orders_are_unbiased_and_their_standard_errors_are_right():
    experts = "abcde"
    game = random_game(experts, 1)
    exact = contribution(shapley(experts), game)
    off, errors = [], []
    for seed in range(150):
        drawn = shapley(experts, permutations=40, seed=seed, exact_to=0)
        found, said = contribution(drawn, game), standard_error(drawn, game)
        assert sum(found.values()) == pytest.approx(game(frozenset(experts)) - game(frozenset()))
        off.append(found["a"] - exact["a"])
        errors.append(said["a"])
    spread = statistics.stdev(off)
    assert abs(statistics.fmean(off)) < 4 * spread / math.sqrt(len(off))
    assert statistics.fmean(errors) == pytest.approx(spread, rel=0.2)


def test_a_seed_draws_the_same_orders():
    assert shapley("abcdefghi", 4, seed=7) == shapley("abcdefghi", 4, seed=7)
    assert shapley("abcdefghi", 4, seed=7) != shapley("abcdefghi", 4, seed=8)


def test_the_front_is_what_nothing_beats():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (0.5, 0.1), (2.0, 0.7)]
    beaten = {
        i
        for i, (cost, score) in enumerate(points)
        for other_cost, other in points
        if other_cost <= cost and other >= score and (other_cost, other) != (cost, score)
    }
    front = pareto_front(points)
    assert set(front) == set(range(len(points))) - beaten
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
