"""The picture of a comparison: what each model gains, against what it costs.

A point is one row of one setting. Its colour is the setting, its form the stage that measured it,
and the number in it tells how many experts run.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tove.atomic_io import atomic_writer
from tove.report.compare.aggregate import Entry, Estimate
from tove.report.row_roles import is_share, metric_label
from tove.report.theme import LIGHT, Theme, plain_log_scale, png, slot_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cost_against_gain", "write_comparison"]

_PANELS = {
    "forward_ms": ("milliseconds an image", 1.0),
    "flops": ("GFLOPs an image", 1e-9),
    "peak_memory_mb": ("peak memory, MB", 1.0),
}
_FORMS = {"trained": "trained", "detached": "experts detached", "merged": "merged"}
_LETTERS = 100  # in a line of the legend
_LOG_FROM = 20  # times the smallest cost


def write_comparison(path: Path, entries: Sequence[Entry], metric: str) -> None:
    """Draw the entries into a PNG file."""
    picture = png(lambda theme: cost_against_gain(theme, entries, metric), LIGHT)
    with atomic_writer(path) as stream:
        stream.write(picture)


def cost_against_gain(theme: Theme, entries: Sequence[Entry], metric: str) -> "Figure":
    """Draw a panel per cost; the score itself where no row has a gain.

    Args:
        theme: the dress.
        entries: of a comparison.
        metric: that their scores are of.
    """
    from matplotlib.figure import Figure

    over = next((entry.over for entry in entries if entry.gain), "")
    settings = list(dict.fromkeys(entry.setting for entry in entries))
    colours = slot_colours(settings)
    shown = [entry for entry in entries if entry.gain or not over]
    costs = [cost for cost in _PANELS if any(cost in entry.costs for entry in shown)]
    figure = Figure(figsize=(1.5 + 3.1 * len(costs), 4.2 + 0.2 * len(settings)))
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        for setting, colour in colours.items():
            own = [e for e in shown if e.setting == setting and cost in e.costs]
            _draw_setting(axes, theme, own, cost, colour, metric)
        _finish(axes, theme, [e.costs[cost] for e in shown if cost in e.costs], cost, bool(over))
    unit = "points" if over and is_share(metric) else "per cent" if is_share(metric) else ""
    what = f"gain over {over}" if over else "score"
    panels[0].set_ylabel(f"{metric_label(metric)}: {what}{unit and f', {unit}'}")
    _legend(figure, theme, colours, shown)
    return figure


def _estimate(entry: Entry, metric: str) -> Estimate:
    """Give what is drawn of an entry; shares in per cent."""
    scale = 100.0 if is_share(metric) else 1.0
    found = entry.gain or entry.score
    low, high = (None if end is None else scale * end for end in (found.low, found.high))
    return Estimate(scale * found.value, low, high, found.pooled)


def _draw_setting(
    axes: "Axes", theme: Theme, entries: Sequence[Entry], cost: str, colour: str, metric: str
) -> None:
    from matplotlib.patheffects import withStroke

    scale = _PANELS[cost][1]
    for chain in _chains(entries):
        path = [(scale * e.costs[cost], _estimate(e, metric).value) for e in chain]
        axes.plot(*zip(*path, strict=True), color=colour, lw=1, alpha=0.45, zorder=2)
    for entry in entries:
        x, found = scale * entry.costs[cost], _estimate(entry, metric)
        if found.low is not None and found.high is not None:
            axes.plot([x, x], [found.low, found.high], color=colour, lw=1.6, alpha=0.6, zorder=3)
        detached, merged = entry.part == "detached", entry.part == "merged"
        face, ink = (theme.surface, colour) if detached else (colour, theme.surface)
        form, size = ("D", 8) if merged else ("o", 11)
        axes.plot(x, found.value, form, ms=size, mfc=face, mec=colour, mew=1.3, zorder=4)
        if not merged:
            axes.annotate(
                str(len(entry.experts)),
                (x, found.value),
                xytext=(0, -0.5),
                textcoords="offset points",
                ha="center",
                va="center",
                color=ink,
                fontsize=7,
                fontweight="bold",
                zorder=5,
            )
        if not (detached or entry.role in ("method", "merged")):
            axes.annotate(
                entry.row,
                (x, found.value),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=theme.muted,
                fontsize=7,
                zorder=6,
                path_effects=[withStroke(linewidth=2.5, foreground=theme.surface)],
            )


def _chains(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Give the removals of each setting in order, where every set is part of the one before.

    Over several seeds the experts may go in different orders; then there is no one line to draw.
    """
    detached = [entry for entry in entries if entry.part == "detached"]
    full = [entry for entry in entries if entry.role == "method"][-1:]
    chain = [*full, *detached]
    sets = [set(entry.experts) for entry in chain]
    return [chain] if all(a > b for a, b in itertools.pairwise(sets)) else []


def _finish(
    axes: "Axes", theme: Theme, costs: Sequence[float], cost: str, against_zero: bool
) -> None:
    axes.set_xlabel(_PANELS[cost][0])
    axes.grid()
    if min(costs) > 0 and max(costs) > _LOG_FROM * min(costs):
        plain_log_scale(axes, "x")
    else:
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlim(0, 1.1 * max(costs) * _PANELS[cost][1])
    if against_zero:
        axes.axhline(0, color=theme.muted, lw=1.2, linestyle=(0, (4, 2)), zorder=1)


def _legend(
    figure: "Figure", theme: Theme, colours: Mapping[str, str], entries: Sequence[Entry]
) -> None:
    """Name the colours on top, a line each, and the forms at the foot."""
    from matplotlib.lines import Line2D

    def mark(form: str, face: str, edge: str, label: str) -> Line2D:
        text = textwrap.fill(label, _LETTERS)
        return Line2D([], [], marker=form, mfc=face, mec=edge, ms=8, ls="none", label=text)

    handles = [mark("s", colour, colour, name) for name, colour in colours.items()]
    ink = theme.ink
    forms = {"trained": ("o", ink), "detached": ("o", theme.surface), "merged": ("D", ink)}
    used = [part for part in forms if any(entry.part == part for entry in entries)]
    figure.legend(handles=handles, loc="outside upper left", ncols=1)
    figure.legend(
        handles=[mark(forms[part][0], forms[part][1], ink, _FORMS[part]) for part in used],
        loc="outside lower left",
        ncols=len(used),
        title=_bars(entries),
        title_fontsize="small",
        alignment="left",
    )


def _bars(entries: Sequence[Entry]) -> str:
    """Say what the numbers and the bars are."""
    pooled = {entry.score.pooled for entry in entries}
    said = {False: "95 % interval of one run", True: "± 1 standard deviation over pooled runs"}
    bars = " or ".join(said[kind] for kind in sorted(pooled))
    return f"Numbers: experts that run. Bars: {bars}."
