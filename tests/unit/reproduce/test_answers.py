"""What the cells say: yes, no or undecided, with the numbers that were put into them."""

import math
from collections.abc import Callable, Mapping

import pytest

from tove.errors import ConfigError
from tove.reproduce.answers import Measured, gather, joint, judge
from tove.reproduce.claim import Criterion
from tove.reproduce.records import Record

METRIC = "vsr/accuracy"
SIZES = (125, 500, 2000, 8000)


def measured(
    make: Callable[..., Record], shares: Mapping[str, float], seeds: int = 3, **options
) -> Measured:
    return gather({"cell": {s: make(s, shares, **options) for s in range(seeds)}}, {})


def difference(ours: str = "ours", above: float = 0.0, metric: str = METRIC) -> Criterion:
    return Criterion("", "difference", (ours, "plain"), metric, above)


@pytest.mark.parametrize(
    ("ours", "above", "answer"),
    [
        (0.80, 0.0, "yes"),
        (0.60, 0.0, "no"),
        (0.7001, 0.0, "undecided"),
        (0.80, 0.1, "undecided"),
        (0.69, -0.05, "yes"),
        (0.60, -0.05, "no"),
    ],
)
def test_a_difference_is_answered_by_where_its_interval_lies(make_record, ours, above, answer):
    found = judge(difference(above=above), measured(make_record, {"ours": ours, "plain": 0.7}))
    assert found.answer == answer
    assert found.interval.value == pytest.approx(ours - 0.7, abs=0.03)
    assert found.interval.low <= found.interval.value <= found.interval.high
    assert found.interval.n == len(found.each) == 3


def test_seeds_that_disagree_leave_it_undecided(make_record):
    shares = (
        {"ours": 0.8, "plain": 0.7},
        {"ours": 0.62, "plain": 0.7},
        {"ours": 0.8, "plain": 0.7},
    )
    records = {seed: make_record(seed, share) for seed, share in enumerate(shares)}
    assert judge(difference(), gather({"cell": records}, {})).answer == "undecided"


def test_fewer_than_three_seeds_decide_nothing_and_lean(make_record):
    found = judge(difference(), measured(make_record, {"ours": 0.9, "plain": 0.7}, seeds=2))
    assert (found.answer, found.leans) == ("undecided", "yes")


@pytest.mark.parametrize(("part", "answer"), [(0.77, "yes"), (0.72, "no"), (0.75, "undecided")])
def test_a_share_of_a_gain(make_record, part, answer):
    cells = measured(make_record, {"part": part, "whole": 0.8, "none": 0.7})
    found = judge(Criterion("", "share", ("part", "whole", "none"), METRIC, 0.5), cells)
    assert found.answer == answer
    assert found.interval.value == pytest.approx((part - 0.7) / 0.1, abs=0.12)


def test_a_share_of_no_gain_is_not_known(make_record):
    cells = measured(make_record, {"part": 0.75, "whole": 0.6, "none": 0.7})
    found = judge(Criterion("", "share", ("part", "whole", "none"), METRIC, 0.5), cells)
    assert found.answer == "undecided"
    assert math.isnan(found.interval.value)


def curves(make: Callable[..., Record], shift: float) -> Measured:
    """Two log-linear curves; the one's data counts `shift` times."""
    names = {"ours": shift, "theirs": 1.0}
    lines = {name: [f"{name}_{size}" for size in SIZES] for name in names}
    shares = {
        f"{name}_{size}": 0.1 + 0.06 * math.log(times * size)
        for name, times in names.items()
        for size in SIZES
    }
    images = {f"{name}_{size}": size for name in names for size in SIZES}
    return gather({"cell": {s: make(s, shares, images) for s in range(3)}}, lines)


def test_the_factor_in_data_has_an_interval_around_the_truth(make_record):
    criterion = Criterion("", "factor", ("ours", "theirs"), METRIC, 1.0)
    found = judge(criterion, curves(make_record, 8.0))
    assert found.interval.low < 8.0 < found.interval.high
    assert found.interval.value == pytest.approx(8.0, rel=0.4)
    assert (found.answer, found.bound) == ("yes", "")


def test_curves_that_do_not_meet_bound_the_factor(make_record):
    criterion = Criterion("", "factor", ("ours", "theirs"), METRIC, 1.0)
    found = judge(criterion, curves(make_record, 300.0))
    assert (found.interval.value, found.bound) == (64.0, ">")
    assert math.isinf(found.interval.high)
    assert found.answer == "yes"


def test_a_kind_of_question_is_a_part_of_the_items(make_record):
    cells = measured(make_record, {"ours": 0.8, "plain": 0.7})
    assert cells.kinds(METRIC) == ["far", "near"]
    both = [
        judge(difference(metric=f"vsr/relation/{k}"), cells).interval.value for k in ("far", "near")
    ]
    assert sum(both) / 2 == pytest.approx(judge(difference(), cells).interval.value)
    with pytest.raises(ConfigError, match="no scores of 'vsr/relation/up' by item"):
        judge(difference(metric="vsr/relation/up"), cells)


def test_an_unknown_arm_and_an_unknown_line_are_said(make_record):
    cells = measured(make_record, {"ours": 0.8, "plain": 0.7})
    with pytest.raises(ConfigError, match=r"No cell has an arm 'our'\. Did you mean 'ours'"):
        judge(difference("our"), cells)
    with pytest.raises(ConfigError, match="The figure has no line 'ours'"):
        judge(Criterion("", "factor", ("ours", "plain"), METRIC), cells)


def test_cells_on_other_items_or_with_equal_rows_are_not_compared(make_record):
    one, other = make_record(0, {"ours": 0.8}), make_record(0, {"plain": 0.7})
    other.items[METRIC]["images"][0] = 5
    with pytest.raises(ConfigError, match="different items"):
        gather({"one": {0: one}, "other": {0: other}}, {})
    with pytest.raises(ConfigError, match="Two cells have a row 'ours'"):
        gather({"one": {0: one}, "other": {0: make_record(0, {"ours": 0.7})}}, {})


def test_a_question_is_answered_by_all_its_tests(make_record):
    cells = measured(make_record, {"ours": 0.8, "plain": 0.7, "alike": 0.7, "worse": 0.6})
    yes, undecided, no = (judge(difference(arm), cells) for arm in ("ours", "alike", "worse"))
    assert joint([yes, yes]) == "yes"
    assert joint([yes, undecided]) == "undecided"
    assert joint([undecided, no, yes]) == "no"
