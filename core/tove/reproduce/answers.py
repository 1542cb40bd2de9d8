"""Answers from the records of a grid's cells: paired over seeds and test images.

    yes         the 95 % interval lies above what the number is held against
    no          it lies below
    undecided   it holds it, or there are fewer than three seeds: how much they vary is not known

Shapes: R resamples.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tove.errors import ConfigError, close_matches
from tove.evaluation.data_factor import factor_in_data
from tove.evaluation.intervals import Interval, resampled_means
from tove.reproduce.claim import Criterion
from tove.reproduce.records import Record, Table

__all__ = ["SEEDS", "Answer", "Found", "Measured", "gather", "joint", "judge"]

SEEDS = 3
"""So many are needed for a yes or a no."""

Answer = Literal["yes", "no", "undecided"]


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a criterion; the interval's `n` is the number of seeds.

    Attributes:
        criterion: it.
        interval: of the number; an end is infinite where nothing bounds it.
        bound: ">" or "<" where the value is only known to be above or below the interval's value.
        answer: see the module.
        leans: what the interval alone says.
        each: the number of each seed.
    """

    criterion: Criterion
    interval: Interval
    bound: Literal["", ">", "<"]
    answer: Answer
    leans: Answer
    each: Mapping[int, float]


@dataclass
class Measured:
    """The arms of a grid.

    Attributes:
        rows: by arm, by seed.
        items: by seed, by metric, the table of its items.
        lines: arms by line of the figure.
    """

    rows: dict[str, dict[int, Mapping[str, Any]]] = field(default_factory=dict)
    items: dict[int, dict[str, Table]] = field(default_factory=dict)
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def seeds(self, *arms: str) -> list[int]:
        """Return the seeds that all these arms have.

        Raises:
            ConfigError: there is no such arm.
        """
        for arm in arms:
            if arm not in self.rows:
                raise ConfigError(f"No cell has an arm '{arm}'. {close_matches(arm, self.rows)}")
        return sorted(set.intersection(*(set(self.rows[arm]) for arm in arms)))

    def kinds(self, metric: str) -> list[str]:
        """Return the kinds of a metric's items, over all seeds."""
        tables = [table[metric] for table in self.items.values() if metric in table]
        return sorted({kind for table in tables for kind in table["kinds"] if kind})

    def column(self, arm: str, entry: str) -> float:
        """Return an entry of an arm's rows, such as "flops" or "experts", the mean over seeds."""
        values = [row[entry] for row in self.rows[arm].values() if row.get(entry) is not None]
        if not values:
            return math.nan
        return float(np.mean([len(v) if isinstance(v, list) else v for v in values]))

    def scores(
        self, arms: Iterable[str], metric: str
    ) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
        """Return each arm's item scores and the items' images, by seed that all arms have.

        Args:
            arms: at least one.
            metric: as rows call it; PREFIX/relation/KIND are the items of that kind.

        Raises:
            ConfigError: a cell has no items of the metric.
        """
        arms = list(dict.fromkeys(arms))
        found: dict[str, list[np.ndarray]] = {arm: [] for arm in arms}
        images = []
        for seed in self.seeds(*arms):
            name, chosen = self._chosen(seed, metric)
            for arm in arms:
                own = np.asarray(self.rows[arm][seed]["scores"][name], dtype=np.float64)
                found[arm].append(own[chosen])
            images.append(np.asarray(self.items[seed][name]["images"])[chosen])
        return found, images

    def _chosen(self, seed: int, metric: str) -> tuple[str, np.ndarray]:
        """Return the metric that has the items, and which of them count."""
        tables = self.items[seed]
        if metric in tables:
            return metric, np.ones(len(tables[metric]["images"]), dtype=bool)
        prefix, _, kind = metric.partition("/relation/")
        for name, table in tables.items():
            if kind in table["kinds"] and name.startswith(f"{prefix}/"):
                return name, np.asarray(table["kind"]) == table["kinds"].index(kind)
        raise ConfigError(
            f"The cells of seed {seed} have no scores of '{metric}' by item. "
            f"{close_matches(metric, tables)}"
        )


def gather(
    records: Mapping[str, Mapping[int, Record]],
    lines: Mapping[str, Sequence[str]],
    partial: bool = False,
) -> Measured:
    """Put the rows of cells together.

    Args:
        records: by cell, by seed.
        lines: arms by line of the figure.
        partial: leave arms of the lines out that no cell has, as a first look does.

    Raises:
        ConfigError: an arm is in two cells, or those of a seed were measured on different items.
    """
    found = Measured(lines=lines)
    for name, by_seed in records.items():
        for seed, record in by_seed.items():
            known = found.items.setdefault(seed, dict(record.items))
            if known != record.items:
                raise ConfigError(
                    f"The cells of seed {seed} were measured on different items, so they cannot be "
                    f"compared pairwise; '{name}' is the first that differs."
                )
            for arm, row in record.arms.items():
                if seed in found.rows.setdefault(arm, {}):
                    raise ConfigError(
                        f"Two cells have a row '{arm}', the second one is '{name}'; give a stage "
                        "another `row`."
                    )
                found.rows[arm][seed] = row
    if partial:
        found.lines = {n: [a for a in arms if a in found.rows] for n, arms in lines.items()}
    return found


def judge(criterion: Criterion, measured: Measured) -> Found:
    """Return what the cells say to a criterion."""
    arms = _arms_of(criterion, measured)
    scores, images = measured.scores(arms, criterion.metric)
    seeds = measured.seeds(*arms)
    if not seeds:
        raise ConfigError(f"No seed has all the arms of '{criterion.says}'.")
    own = {arm: np.array([s.mean() for s in by_seed]) for arm, by_seed in scores.items()}
    ends = _number(criterion, measured, {arm: float(e.mean()) for arm, e in own.items()})
    drawn = resampled_means(scores, images)
    numbers = [
        _number(criterion, measured, {arm: float(m[r]) for arm, m in drawn.items()})
        for r in range(len(drawn[arms[0]]))
    ]
    # Whole points of the resamples, for ends may be infinite.
    low = float(np.quantile([lower for lower, _ in numbers], 0.025, method="lower"))
    high = float(np.quantile([upper for _, upper in numbers], 0.975, method="higher"))
    leans = _answer(low, high, criterion.above)
    each = {
        seed: _value(_number(criterion, measured, {arm: float(m[i]) for arm, m in own.items()}))[0]
        for i, seed in enumerate(seeds)
    }
    decided = leans if len(seeds) >= SEEDS else "undecided"
    value, bound = _value(ends)
    return Found(criterion, Interval(value, low, high, len(seeds)), bound, decided, leans, each)


def _value(ends: tuple[float, float]) -> tuple[float, Literal["", ">", "<"]]:
    """Return the number that ends stand for, and on which side of it the truth lies."""
    low, high = ends
    if math.isinf(low) and math.isinf(high):
        return math.nan, ""
    if math.isinf(high):
        return low, ">"
    return high, "" if low == high else "<"


def joint(found: Sequence[Found]) -> Answer:
    """Return the answer to a question that asks for all of the criteria."""
    answers = {one.answer for one in found}
    return "no" if "no" in answers else "undecided" if "undecided" in answers else "yes"


def _answer(low: float, high: float, above: float) -> Answer:
    return "yes" if low > above else "no" if high < above else "undecided"


def _arms_of(criterion: Criterion, measured: Measured) -> list[str]:
    if criterion.kind != "factor":
        return list(criterion.arms)
    for line in criterion.arms:
        if line not in measured.lines:
            known = close_matches(line, measured.lines)
            raise ConfigError(f"The figure has no line '{line}'. {known}")
    return [arm for line in criterion.arms for arm in measured.lines[line]]


def _number(
    criterion: Criterion, measured: Measured, means: Mapping[str, float]
) -> tuple[float, float]:
    """Return the ends between which a criterion's number lies, equal but for a factor's bound."""
    if criterion.kind == "factor":
        ours, theirs = (_curve(measured, line, means) for line in criterion.arms)
        return factor_in_data(*ours, *theirs)
    values = [means[arm] for arm in criterion.arms]
    if criterion.kind == "difference":
        number = values[0] - values[1]
    else:
        gain = values[1] - values[2]
        if gain <= 0:  # a share of nothing
            return -math.inf, math.inf
        number = (values[0] - values[2]) / gain
    return number, number


def _curve(
    measured: Measured, line: str, means: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a line by the number of distinct images."""
    points = sorted((measured.column(a, "training_images"), means[a]) for a in measured.lines[line])
    sizes, scores = np.array(points).T
    return sizes, scores
