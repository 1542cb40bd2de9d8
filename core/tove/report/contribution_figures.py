"""What experts add against what they cost, and which sets of them no other one beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tove.report.figures import blank_figure, legend_columns, shown
from tove.report.row_roles import is_share, metric_label
from tove.report.theme import Theme, plain_log_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COSTS", "Point", "gain_against_cost", "pareto_fronts"]

COSTS = {"forward_ms": ("milliseconds an image", 1.0), "flops": ("GFLOPs an image", 1e-9)}
"""By a row's name of the cost, its words and what it is multiplied by."""
_LOG_FROM = 20  # times the smallest cost


@dataclass(frozen=True, slots=True)
class Point:
    """What one expert adds, or one set of them scores, and costs.

    Attributes:
        name: of the expert; of a set its experts.
        cost: by the names of `COSTS`.
        value: in the metric's own unit.
        bounds: ends of its 95 % interval; None where it has none.
    """

    name: str
    cost: Mapping[str, float]
    value: float
    bounds: tuple[float, float] | None = None


def gain_against_cost(
    theme: Theme, points: Sequence[Point], colours: Mapping[str, str], metric: str
) -> "Figure":
    """Draw an expert's contribution against its cost, a panel per cost.

    Args:
        theme: the dress.
        points: of the experts.
        colours: by slot.
        metric: that is contributed to.
    """
    unit = ", points" if is_share(metric) else ""
    figure, panels = _panels(theme, f"{metric_label(metric)}: added{unit}", points)
    scale = _scale(metric)
    for axes, (cost, (_, factor)) in zip(panels, COSTS.items(), strict=True):
        axes.axhline(0, color=theme.muted, lw=1, linestyle=(0, (4, 2)))
        for point in points:
            x, colour = factor * point.cost[cost], colours.get(point.name, theme.accent)
            if point.bounds is not None:
                axes.plot([x, x], [scale * end for end in point.bounds], color=colour, lw=1.5)
            label = shown(point.name) if axes is panels[0] else None
            axes.plot(x, scale * point.value, "o", ms=9, mfc=colour, mec=theme.surface, label=label)
    _legend(figure, [point.name for point in points])
    return figure


def pareto_fronts(
    theme: Theme, points: Sequence[Point], fronts: Mapping[str, Sequence[int]], metric: str
) -> "Figure":
    """Draw every set of experts by cost and score, and the line of those that nothing beats.

    Args:
        theme: the dress.
        points: of the sets.
        fronts: by cost, the positions of the points on the front, the cheapest first.
        metric: of the scores.
    """
    unit = ", per cent" if is_share(metric) else ""
    figure, panels = _panels(theme, f"{metric_label(metric)}{unit}", points)
    scale = _scale(metric)
    for axes, (cost, (_, factor)) in zip(panels, COSTS.items(), strict=True):
        own = fronts[cost]
        rest = [point for place, point in enumerate(points) if place not in own]
        for group, face in ((rest, theme.surface), ([points[place] for place in own], theme.ink)):
            x = [factor * point.cost[cost] for point in group]
            y = [scale * point.value for point in group]
            axes.plot(x, y, "o", ms=6, mfc=face, mec=theme.ink, zorder=3)
        path = [(factor * points[p].cost[cost], scale * points[p].value) for p in own]
        axes.step(*zip(*path, strict=True), where="post", color=theme.accent, lw=1.5, zorder=2)
    return figure


def _panels(theme: Theme, label: str, points: Sequence[Point]) -> "tuple[Figure, Sequence[Axes]]":
    figure = blank_figure(3.2)
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, (cost, (words, factor)) in zip(panels, COSTS.items(), strict=True):
        costs = [factor * point.cost[cost] for point in points]
        axes.set_xlabel(words)
        axes.grid()
        if min(costs) > 0 and max(costs) > _LOG_FROM * min(costs):
            plain_log_scale(axes, "x")
        else:
            axes.set_xlim(0, 1.1 * max(costs))
            axes.locator_params(axis="x", nbins=4)
    panels[0].set_ylabel(label)
    return figure, panels


def _scale(metric: str) -> float:
    return 100.0 if is_share(metric) else 1.0


def _legend(figure: "Figure", names: Sequence[str]) -> None:
    figure.legend(loc="outside upper left", ncols=legend_columns(names), handlelength=1.2)
