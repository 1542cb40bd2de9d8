"""Which row of a run is what, and how two of them compare.

A row knows its gain over the baseline on the items that both answered: the two are told apart if
the 95 % interval of that gain excludes zero. Other pairs are told apart only if their own 95 %
intervals do not overlap, which is stricter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tove.engine.rows import gives_one_answer, role_of

__all__ = [
    "Score",
    "Standing",
    "compare",
    "format_score",
    "metric_label",
    "paired_gain",
    "score_of",
    "standing_of",
]

Row = Mapping[str, Any]
Verdict = Literal["above", "below", "alike", "unknown"]

_LABELS = {
    "vsr/accuracy": "statement accuracy",
    "vqa/accuracy": "question accuracy",
    "caption/CIDEr": "caption CIDEr",
    "chat/accuracy": "answer accuracy",
}
_SHARES = ("accuracy", "rate")


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one row.

    Attributes:
        metric: its name.
        value: as the metric gives it.
        low: lower end of the 95 % interval; None where the metric has none.
        high: upper end.
        n: items behind it.
        row: the row it belongs to.
        over: the row that `gain` is over.
        gain: ends of the 95 % interval of the paired gain over that row; None where not measured.
        one_answer: whether (nearly) all items were given the same answer.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    row: str = ""
    over: str = ""
    gain: tuple[float, float] | None = None
    one_answer: bool = False

    @property
    def empty(self) -> str:
        """Why the score tells nothing of what its model sees, in words; "" where it may."""
        if self.one_answer:
            return "gives one answer to everything"
        return "" if self.value else "gets nothing right"

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval; the value alone where there is none."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )

    def __str__(self) -> str:
        return format_score(self.metric, self.value)

    @property
    def interval(self) -> str:
        """The interval in words; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        low, high = (format_score(self.metric, bound, unit=False) for bound in self.bounds)
        return f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class Standing:
    """The rows by the part they play; None for one whose stage did not run.

    Attributes:
        plain: CLIP alone.
        baseline: as many trained parameters, no experts.
        method: with all its experts.
        merged: one encoder.
        control: the baseline merged as `merged` was: the same images and steps, no experts.
        detached: after each removal, in order.
        removed: the slot that each of `detached` lost.
    """

    plain: Row | None = None
    baseline: Row | None = None
    method: Row | None = None
    merged: Row | None = None
    control: Row | None = None
    detached: Sequence[Row] = ()
    removed: Sequence[str] = field(default=())

    @property
    def name(self) -> str:
        """The method as sentences name it: its model's class; rows of version 0.1 were ToVE's."""
        return str((self.method or {}).get("model", "ToVE"))


def standing_of(rows: Iterable[Row]) -> Standing:
    """Find the parts among a run's rows: the last of each role.

    What trains in two stages has a row of each, and the last is what it became.

    Args:
        rows: of all stages, in order.
    """
    rows = list(rows)
    by_role: dict[str, list[Row]] = {}
    for row in rows:
        by_role.setdefault(role_of(row), []).append(row)
    last = {role: found[-1] for role, found in by_role.items()}
    detached, method = by_role.get("detached", []), last.get("method")
    removed, before = [], list(method["experts"]) if method else []
    for row in detached:
        gone = [slot for slot in before if slot not in row["experts"]]
        removed.append(", ".join(gone) or row["name"].partition("-")[2])
        before = row["experts"]
    return Standing(
        last.get("plain"),
        last.get("baseline"),
        method,
        last.get("merged"),
        last.get("control"),
        detached,
        removed,
    )


def score_of(row: Row | None, metric: str) -> Score | None:
    """Give a row's score; None without the row or the metric."""
    entry = row["metrics"].get(metric) if row else None
    if entry is None or row is None:
        return None
    gain = row.get("gain", {})
    return Score(
        metric,
        entry["value"],
        entry.get("low"),
        entry.get("high"),
        entry.get("n"),
        row["name"],
        gain.get("over", ""),
        (gain[metric]["low"], gain[metric]["high"]) if metric in gain else None,
        gives_one_answer(row, metric),
    )


def paired_gain(ours: Score, other: Score) -> tuple[float, float] | None:
    """Give the interval of the gain of `ours` over `other` on the same items, if it is known."""
    return ours.gain if other.row and ours.over == other.row else None


def compare(ours: Score, other: Score) -> Verdict:
    """Say where `ours` lies; "alike" where zero gain or a touch of the intervals is possible."""
    gain = paired_gain(ours, other)
    if gain is not None:
        return "above" if gain[0] > 0 else "below" if gain[1] < 0 else "alike"
    if ours.low is None or other.low is None:
        return "unknown"
    if ours.bounds[0] > other.bounds[1]:
        return "above"
    return "below" if ours.bounds[1] < other.bounds[0] else "alike"


def is_share(metric: str) -> bool:
    """Tell whether a metric is a share of items, which is written in per cent."""
    name = metric.rpartition("/")[2]
    return "/relation/" in metric or any(part in name for part in _SHARES)


def format_score(metric: str, value: float, unit: bool = True) -> str:
    """Write a score: a share in per cent, any other metric with three decimals."""
    if not is_share(metric):
        return f"{value:.3f}"
    return f"{100 * value:.1f}{' %' if unit else ''}"


def metric_label(metric: str) -> str:
    """Name a metric for a reader."""
    return _LABELS.get(metric, metric)
