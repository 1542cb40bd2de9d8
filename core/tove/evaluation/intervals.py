"""Confidence intervals: what a score on a finite test set is worth.

Wilson (1927), for a share p = k / n:
    (p + z^2/2n  +-  z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
Percentile bootstrap for means, and for paired differences of two models on the same items:
the spread that both share (hard and easy images) then cancels.

Statements about one image are right or wrong together, so images are what is drawn, not statements:
the bootstrap resamples images, and Wilson's n becomes n / deff, with Kish's design effect
    deff = sum_images (sum_items (x - p))^2 / (n p (1 - p)),  at least 1

Models that were trained several times vary with the seed as well: the bootstrap of several runs
draws seeds, then for each seed drawn the images of its test set. All models share the draws, so
that whatever is computed from their means, a difference or a ratio, is paired.

Shapes: n items, G images, R resamples, S seeds,
D draws of a seed's images.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Interval",
    "bootstrap_interval",
    "image_of",
    "item_name",
    "paired_interval",
    "resampled_means",
    "share_interval",
    "wilson_interval",
]

_BETWEEN = " | "

_Z95 = 1.959963984540054
_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A score, its 95 % interval, and the number of items behind it."""

    value: float
    low: float
    high: float
    n: int


def item_name(image_id: str, prompt: str, source_id: object = None) -> str:
    """Name an item that asks something about an image.

    Args:
        image_id: of the image.
        prompt: what is asked.
        source_id: its place in its file, which tells apart what is asked twice; None where unknown.
    """
    name = f"{image_id}{_BETWEEN}{prompt}"
    return name if source_id is None else f"{name}{_BETWEEN}{source_id}"


def image_of(item: str) -> str:
    """Return the image that an item is about; items that are images name themselves."""
    return item.partition(_BETWEEN)[0]


def wilson_interval(num_correct: int, n: int, design_effect: float = 1.0) -> Interval:
    """Return the share of correct answers with Wilson's 95 % interval; [0, 1] for no item.

    Args:
        num_correct: k.
        n: items.
        design_effect: by how much items that share images vary more than independent ones.
    """
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    p, independent = num_correct / n, n / design_effect
    shrink = 1 + _Z95**2 / independent
    centre = (p + _Z95**2 / (2 * independent)) / shrink
    half = p * (1 - p) / independent + _Z95**2 / (4 * independent * independent)
    half = _Z95 * math.sqrt(half) / shrink
    low = 0.0 if num_correct == 0 else centre - half
    high = 1.0 if num_correct == n else centre + half
    return Interval(p, low, high, n)


def share_interval(right: Sequence[bool], images: Sequence[Hashable]) -> Interval:
    """Return the share of right answers with Wilson's interval for items that share images.

    Args:
        right: one entry per item.
        images: the image of each item.
    """
    n, num_correct = len(right), sum(right)
    spread = num_correct * (n - num_correct) / n if n else 0.0  # n p (1 - p)
    sums_G, _ = _by_image(np.asarray(right, dtype=np.float64) - num_correct / max(1, n), images)
    effect = float((sums_G**2).sum()) / spread if spread else 1.0
    return wilson_interval(num_correct, n, max(1.0, effect))


def bootstrap_interval(
    values: Sequence[float],
    num_resamples: int = 2000,
    seed: int = 0,
    images: Sequence[Hashable] | None = None,
) -> Interval:
    """Return the mean of per-item values with a percentile-bootstrap 95 % interval.

    Args:
        values: one score per item.
        num_resamples: R; the interval's ends are the 2.5 % and 97.5 % points of R means.
        seed: of the resampling, fixed so that equal scores have equal intervals.
        images: the image of each item, which are resampled whole; None where no two share one.
    """
    items = np.asarray(values, dtype=np.float64)
    n = len(items)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    sums_G, counts_G = _by_image(items, range(n) if images is None else images)
    random = np.random.default_rng(seed)
    number = len(sums_G)
    rows = max(1, _NUMBERS_AT_ONCE // number)
    means = []
    for done in range(0, num_resamples, rows):
        drawn = random.integers(number, size=(min(rows, num_resamples - done), number))
        means.append(sums_G[drawn].sum(axis=1) / counts_G[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(items.mean()), float(low), float(high), n)


def _by_image(items: np.ndarray, images: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of the items of each image."""
    places: dict[Hashable, int] = {}
    index = np.array([places.setdefault(image, len(places)) for image in images], dtype=np.intp)
    return np.bincount(index, weights=items), np.bincount(index)


def paired_interval(
    ours: Mapping[str, float],
    baseline: Mapping[str, float],
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean gain of `ours` over `baseline` on the same items, with its interval.

    Args:
        ours: score of each item by its name, such as a metric's `item_scores`; items of one image
            (see `image_of`) are resampled together.
        baseline: the other model's scores of the same items.
        num_resamples: see `bootstrap_interval`.
        seed: see `bootstrap_interval`.

    Raises:
        ValueError: the two did not answer the same items.
    """
    if ours.keys() != baseline.keys():
        common = len(ours.keys() & baseline.keys())
        raise ValueError(
            f"The models answered different items ({len(ours)} and {len(baseline)}, {common} in "
            "common), so they cannot be compared pairwise; evaluate both on the same data set."
        )
    items = sorted(ours)
    gains = [ours[item] - baseline[item] for item in items]
    return bootstrap_interval(gains, num_resamples, seed, [image_of(item) for item in items])


def resampled_means(
    scores: Mapping[str, Sequence[np.ndarray]],
    images: Sequence[np.ndarray],
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return the means [R] of models that were trained on several seeds, seeds and images redrawn.

    Args:
        scores: of each model the scores of the items [n] for each of S seeds, in one order.
        images: for each seed the number of the image that each item is about, [n].
        num_resamples: R.
        seed: of the resampling; equal scores have equal means.
    """
    random = np.random.default_rng(seed)
    drawn_RS = random.integers(len(images), size=(num_resamples, len(images)))
    means = {model: np.zeros(num_resamples) for model in scores}
    for number, index in enumerate(images):
        sums = {model: np.bincount(index, weights=own[number]) for model, own in scores.items()}
        counts_G = np.bincount(index)
        size = np.count_nonzero(counts_G)
        odds_G = (counts_G > 0) / size
        resamples = np.repeat(np.arange(num_resamples), (drawn_RS == number).sum(axis=1))
        weights_DG = random.multinomial(size, odds_G, size=len(resamples))
        asked_D = weights_DG @ counts_G
        for model, sums_G in sums.items():
            np.add.at(means[model], resamples, weights_DG @ sums_G / asked_D)
    return {model: total / len(images) for model, total in means.items()}
