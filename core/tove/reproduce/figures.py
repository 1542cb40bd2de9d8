"""The figure of a claim: lines over data, cost or steps where it has lines, else dots.

Bars are 95 % intervals over seeds and test images.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tove.evaluation.intervals import Interval, resampled_means
from tove.report.row_roles import is_share, metric_label
from tove.report.theme import Theme, plain_log_scale, slot_colours
from tove.reproduce.answers import Measured
from tove.reproduce.claim import Claim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["claim_figure", "mean_interval"]

_AXES = {
    "training_images": "distinct training images",
    "flops": "GFLOPs an image",
    "experts": "experts that run",
    "steps": "steps",
}
_UNIT = {"flops": 1e-9}
_LOG = ("training_images", "steps")
_LINE_OF_TEXT = 0.045  # of a figure's height


def mean_interval(measured: Measured, arm: str, metric: str) -> Interval:
    """Return an arm's mean score over its seeds, with its 95 % interval."""
    scores, images = measured.scores([arm], metric)
    low, high = np.quantile(resampled_means(scores, images)[arm], [0.025, 0.975])
    value = float(np.mean([own.mean() for own in scores[arm]]))
    return Interval(value, float(low), float(high), len(images))


def claim_figure(theme: Theme, claim: Claim, measured: Measured) -> "Figure":
    """Draw the first metric of a claim.

    Args:
        theme: the dress.
        claim: says what is drawn over what.
        measured: the arms.
    """
    from matplotlib.figure import Figure

    metric = claim.metrics[0]
    scale = 100.0 if is_share(metric) else 1.0
    lines = {n: [a for a in arms if a in measured.rows] for n, arms in claim.lines.items()}
    lines = {name: arms for name, arms in lines.items() if arms}
    alone = [arm for arm in measured.rows if not any(arm in arms for arms in claim.lines.values())]
    height = 3.6 if lines else 0.9 + 0.28 * len(measured.rows)
    figure = Figure(figsize=(6.4, height))
    axes = figure.subplots()
    label = f"{metric_label(metric)}{', per cent' if is_share(metric) else ''}"
    axes.grid(axis="both" if lines else "x")
    if lines:
        _draw_lines(axes, theme, measured, metric, scale, lines, claim.x)
        _draw_references(axes, theme, measured, metric, scale, alone)
        axes.set(xlabel=_AXES.get(claim.x, claim.x), ylabel=label)
        if len(lines) > 1:
            axes.legend(loc="best", fontsize=8)
    else:
        _draw_dots(axes, theme, measured, metric, scale)
        axes.set_xlabel(label)
    return figure


def _scaled(measured: Measured, arm: str, metric: str, scale: float) -> tuple[float, float, float]:
    found = mean_interval(measured, arm, metric)
    return scale * found.value, scale * found.low, scale * found.high


def _draw_lines(
    axes: "Axes",
    theme: Theme,
    measured: Measured,
    metric: str,
    scale: float,
    lines: dict[str, list[str]],
    x: str,
) -> None:
    for (name, arms), colour in zip(lines.items(), slot_colours([*lines]).values(), strict=True):
        at = np.array([measured.column(arm, x) for arm in arms]) * _UNIT.get(x, 1.0)
        order = np.argsort(at)
        points = np.array([_scaled(measured, arm, metric, scale) for arm in arms])[order]
        axes.plot(at[order], points[:, 0], "o-", color=colour, ms=4.5, lw=1.6, label=name)
        axes.fill_between(at[order], points[:, 1], points[:, 2], color=colour, alpha=0.15, lw=0)
    if x in _LOG:
        plain_log_scale(axes, "x")
        every = sorted({measured.column(arm, x) for arms in lines.values() for arm in arms})
        axes.set_xticks(every, [f"{value:,.0f}" for value in every])
        axes.set_xticks([], minor=True)
    if x == "experts":
        axes.invert_xaxis()
        axes.locator_params(axis="x", integer=True)


def _draw_references(
    axes: "Axes",
    theme: Theme,
    measured: Measured,
    metric: str,
    scale: float,
    arms: Sequence[str],
) -> None:
    """Draw arms as level lines, each with its name behind its right end."""
    values = {arm: _scaled(measured, arm, metric, scale)[0] for arm in arms}
    for value in values.values():
        axes.axhline(value, color=theme.muted, lw=1.1, linestyle="--", zorder=1)
    low, high = axes.get_ylim()
    beside, free = axes.get_yaxis_transform(), low
    for arm in sorted(values, key=values.__getitem__):
        at = max(values[arm], free)  # names must not lie upon each other
        free = at + _LINE_OF_TEXT * (high - low)
        axes.text(1.01, at, arm, transform=beside, va="center", fontsize=8, color=theme.muted)


def _draw_dots(axes: "Axes", theme: Theme, measured: Measured, metric: str, scale: float) -> None:
    arms = [*measured.rows]
    for place, arm in enumerate(arms):
        value, low, high = _scaled(measured, arm, metric, scale)
        axes.plot([low, high], [place, place], color=theme.muted, lw=1.6, zorder=2)
        axes.plot(value, place, "o", color=theme.ink, ms=6, zorder=3)
        each = [scale * row["metrics"][metric] for row in measured.rows[arm].values()]
        axes.plot(each, [place] * len(each), "|", color=theme.accent, ms=8, zorder=4)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.4, -0.6)
