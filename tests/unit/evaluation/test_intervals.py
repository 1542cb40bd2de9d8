import numpy as np
import pytest

from tove.evaluation import (
    bootstrap_interval,
    paired_interval,
    share_interval,
    wilson_interval,
)
from tove.evaluation.intervals import image_of, item_name, resampled_means


def test_wilson_matches_known_values() -> None:
    # Newcombe (1998), table I: 81 of 263 and 15 of 148.
    first, second = wilson_interval(81, 263), wilson_interval(15, 148)
    assert (first.low, first.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert (second.low, second.high) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert first.value == 81 / 263
    assert first.n == 263


def test_wilson_stays_in_the_unit_interval() -> None:
    assert wilson_interval(0, 20).low == 0.0
    assert wilson_interval(20, 20).high == 1.0
    assert 0 < wilson_interval(0, 20).high < 0.2
    for n in range(1, 400):  # exactly: rounding must not draw an interval beyond all or nothing
        assert (wilson_interval(0, n).low, wilson_interval(n, n).high) == (0.0, 1.0)
    empty = wilson_interval(0, 0)
    assert (empty.low, empty.high, empty.n) == (0.0, 1.0, 0)


def test_bootstrap_is_near_the_normal_interval_and_repeats_itself() -> None:
    values = np.random.default_rng(3).normal(5, 2, 400)
    interval = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_interval(values) == interval
    assert bootstrap_interval(values, seed=1) != interval


def test_bootstrap_in_pieces_covers_all_resamples(monkeypatch) -> None:
    whole = bootstrap_interval(np.arange(50.0), num_resamples=101)
    monkeypatch.setattr("tove.evaluation.intervals._NUMBERS_AT_ONCE", 500)
    pieces = bootstrap_interval(np.arange(50.0), num_resamples=101)
    assert pieces == whole


def test_pairing_cancels_what_both_arms_share() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 10, 300)
    gains = rng.normal(0.5, 1, 300)
    ours = {str(i): hardness[i] + gains[i] for i in range(300)}
    baseline = {str(i): h for i, h in enumerate(hardness)}
    gain = paired_interval(ours, dict(reversed(baseline.items())))
    assert 0.2 < gain.low < 0.5 < gain.high < 0.8
    unpaired = bootstrap_interval(list(ours.values()))
    assert gain.high - gain.low < 0.2 * (unpaired.high - unpaired.low)


def test_arms_on_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="1 in common"):
        paired_interval({"a": 1.0, "b": 0.0}, {"b": 1.0})


def test_one_item_an_image_is_wilson_s_interval() -> None:
    right = [i % 3 > 0 for i in range(60)]
    assert share_interval(right, range(60)) == wilson_interval(40, 60)
    assert share_interval([], []).n == 0
    assert share_interval([True] * 20, [0] * 20) == wilson_interval(20, 20)


def test_items_that_stand_and_fall_together_count_as_one() -> None:
    right = [i % 3 > 0 for i in range(60) for _ in range(4)]
    images = [i for i in range(60) for _ in range(4)]
    together = share_interval(right, images)
    one_each = wilson_interval(40, 60)
    assert (together.value, together.n) == (one_each.value, 240)
    assert (together.low, together.high) == pytest.approx((one_each.low, one_each.high))


def test_images_that_are_each_half_right_make_no_interval_narrower() -> None:
    """The design effect is below 1 there, by chance or by how statements were made."""
    assert share_interval([True, False] * 30, [i // 2 for i in range(60)]) == wilson_interval(
        30, 60
    )


def test_intervals_hold_what_they_promise_when_items_share_images() -> None:
    """Of 300 test sets, in how many the interval holds the true share; 95 % should."""
    rng = np.random.default_rng(1)
    hits = {"share": 0, "bootstrap": 0, "as if independent": 0}
    for _ in range(300):
        chances = rng.beta(1.2, 0.8, 100)  # of an image; the mean is .6
        right = rng.random((100, 5)) < chances[:, None]
        flat, images = right.ravel().tolist(), np.repeat(np.arange(100), 5).tolist()
        intervals = {
            "share": share_interval(flat, images),
            "bootstrap": bootstrap_interval(flat, 400, images=images),
            "as if independent": wilson_interval(sum(flat), len(flat)),
        }
        for name, interval in intervals.items():
            hits[name] += interval.low <= 0.6 <= interval.high
    assert min(hits["share"], hits["bootstrap"]) > 0.91 * 300
    assert hits["as if independent"] < 0.85 * 300


def test_the_gain_of_items_that_share_images_is_resampled_by_image() -> None:
    rng = np.random.default_rng(0)
    by_image = rng.normal(0.5, 1, 80)
    ours = {item_name(f"i{i}", f"s{k}"): by_image[i] for i in range(80) for k in range(4)}
    baseline = dict.fromkeys(ours, 0.0)
    assert image_of(next(iter(ours))) == "i0"
    gain = paired_interval(ours, baseline)
    assert gain.n == 320
    assert gain.high - gain.low == pytest.approx(4 * 0.98 * by_image.std() / 80**0.5, rel=0.1)


def runs_of(random, shares, images=200, each=4):
    """Answers of a model on each seed, right in a share of the cases, and their images."""
    index = np.repeat(np.arange(images), each)
    return [(random.random(len(index)) < share).astype(float) for share in shares], [index] * len(
        shares
    )


def test_means_over_seeds_are_spread_as_seeds_and_images_are():
    random = np.random.default_rng(0)
    steady, images = runs_of(random, [0.8] * 5)
    varied, _ = runs_of(random, [0.6, 0.7, 0.8, 0.9, 1.0])
    means = resampled_means({"steady": steady, "varied": varied}, images, 1000)
    by_images = np.sqrt(0.8 * 0.2 / 800)  # of one seed
    assert means["steady"].mean() == pytest.approx(0.8, abs=0.02)
    assert means["steady"].std() == pytest.approx(by_images / np.sqrt(5), rel=0.6)
    assert means["varied"].std() == pytest.approx(
        np.std([0.6, 0.7, 0.8, 0.9, 1.0]) / 5**0.5, rel=0.2
    )


def test_what_seeds_and_images_share_cancels_in_a_difference():
    random = np.random.default_rng(1)
    theirs, images = runs_of(random, [0.5, 0.7, 0.9])
    means = resampled_means({"theirs": theirs, "ours": [s + 0.1 for s in theirs]}, images, 200)
    np.testing.assert_allclose(means["ours"] - means["theirs"], 0.1)


def test_images_are_drawn_whole():
    random = np.random.default_rng(2)
    of_image = (random.random(200) < 0.5).astype(float)
    whole, alone = np.repeat(np.arange(200), 4), np.arange(800)
    spread = {
        len(set(images)): resampled_means({"m": [np.repeat(of_image, 4)]}, [images], 500)["m"].std()
        for images in (whole, alone)
    }
    assert spread[200] == pytest.approx(2 * spread[800], rel=0.2)
