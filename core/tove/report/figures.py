"""The curves and bars of the report. Each function draws one figure in one theme.

Shapes: K slots, I images, T steps, L layers (bands of depth, or rows of the token grid).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tove.report.row_roles import Score, is_share
from tove.report.theme import Theme, plain_log_scale, slot_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "blank_figure",
    "detachment",
    "gate_layers",
    "gate_means",
    "legend_columns",
    "loss_curves",
    "relation_bars",
    "smoothed",
]

Array = NDArray[np.float64]
Curves = Mapping[str, tuple[Array, Array]]

_WIDTH = 5.0  # inches
_COLUMNS = 2  # of small multiples, so that a phone can show them
_LETTERS = 56  # in a line of legend
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (5, 1.5, 1, 1.5)))


def blank_figure(height: float) -> "Figure":
    """Make an empty figure as wide as all are, so high in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height))


def legend_columns(labels: Iterable[str]) -> int:
    """Tell how many columns of a legend fit over a figure; it is filled column by column."""
    widths = [len(label) + 5 for label in labels]
    for columns in range(len(widths), 1, -1):
        lines = -(-len(widths) // columns)
        if sum(max(widths[i : i + lines]) for i in range(0, len(widths), lines)) <= _LETTERS:
            return columns
    return 1


def shown(label: str) -> str:
    """Give a label as legends show it: they leave out one that starts with an underscore."""
    return f"\u200b{label}" if label.startswith("_") else label


def detachment(
    theme: Theme,
    labels: Sequence[str],
    scores: Sequence[Score],
    references: Mapping[str, Score],
    colours: Sequence[str | None],
) -> "Figure":
    """Draw the score after each removal, with what it is held against as horizontal lines.

    Args:
        theme: the dress.
        labels: of the points: all experts first, then what was removed.
        scores: as many, of one metric.
        references: by name.
        colours: of the removed slots; None for the first point.
    """
    from matplotlib.patheffects import withStroke

    figure = blank_figure(3.5)
    axes = figure.add_subplot()
    scale = 100.0 if is_share(scores[0].metric) else 1.0
    x = np.arange(len(scores))
    low, high = (scale * np.array(side) for side in zip(*(s.bounds for s in scores), strict=True))
    values = scale * np.array([score.value for score in scores])
    axes.fill_between(x, low, high, color=theme.ink, alpha=0.13, linewidth=0)
    axes.plot(x, values, color=theme.ink, linewidth=2, zorder=3)
    for position, value, colour in zip(x, values, colours, strict=True):
        axes.plot(position, value, "o", ms=9, mfc=colour or theme.ink, mec=theme.surface, zorder=4)
        axes.annotate(
            f"{value:.1f}" if scale > 1 else f"{value:.3f}",
            (position, value),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
            zorder=5,
            path_effects=[withStroke(linewidth=3, foreground=theme.surface)],
        )
    for (name, score), dash in zip(references.items(), _DASHES[1:], strict=False):
        text = f"{name} {score}"
        axes.axhline(scale * score.value, color=theme.muted, linestyle=dash, lw=1.4, label=text)
    axes.set_xticks(x, labels)
    axes.tick_params("x", length=0, labelcolor=theme.ink, rotation=25 if len(x) > 6 else 0)
    axes.set_xlim(-0.4, len(x) - 0.6)
    axes.margins(y=0.16)
    axes.set_ylabel("per cent right" if scale > 1 else scores[0].metric.rpartition("/")[2])
    axes.grid(axis="y")
    if references:
        _, texts = axes.get_legend_handles_labels()
        columns = legend_columns(texts)
        figure.legend(loc="outside upper left", ncols=columns, handlelength=2.4)
    return figure


def smoothed(values: Array, span: int) -> Array:
    """Return the exponential mean [T] over about `span` steps, unbiased at the start."""
    keep = 1 - 1 / max(span, 1)
    weighted, weight, out = 0.0, 0.0, np.empty_like(values)
    for index, value in enumerate(values):
        weighted, weight = keep * weighted + value, keep * weight + 1
        out[index] = weighted / weight
    return out


def loss_curves(theme: Theme, name: str, curves: Curves) -> "Figure":
    """Draw one loss, a line per stage: smoothed, over the raw values.

    Args:
        theme: the dress.
        name: of the loss.
        curves: by stage: (steps [T], values [T]); the last stage has the main line.
    """
    figure = blank_figure(2.8)
    axes = figure.add_subplot()
    shades = [theme.ink, theme.muted, theme.muted, theme.accent]
    # From the fifth on, a colour of its own for every four, so that no two lines look alike.
    more = slot_colours([str(group) for group in range(len(curves) // len(_DASHES))])
    shades += [colour for colour in more.values() for _ in _DASHES]
    for index, (stage, (steps, values)) in enumerate(reversed(list(curves.items()))):
        shade, dash = shades[index], _DASHES[index % len(_DASHES)]
        axes.plot(steps, values, color=shade, lw=0.5, alpha=0.28)
        smooth = smoothed(values, smoothing_span(values))
        axes.plot(steps, smooth, color=shade, linestyle=dash, lw=1.8, label=shown(stage))
    _loss_scale(axes, [values for _, values in curves.values()])
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=legend_columns(curves), handlelength=2.6)
    return figure


def smoothing_span(values: Array) -> int:
    """Tell over how many steps a curve is smoothed: a twenty-fifth of it."""
    return max(len(values) // 25, 1)


def _loss_scale(axes: "Axes", series: Sequence[Array]) -> None:
    values = np.concatenate(series)
    if values.min() > 0 and values.max() > 20 * values.min():
        plain_log_scale(axes, "y")


def relation_bars(
    theme: Theme,
    rows: Mapping[str, Mapping[str, Score]],
    relations: Sequence[str],
    emphasised: Sequence[str],
) -> "Figure":
    """Draw the accuracy on each relation, one panel of bars per row of the results.

    Args:
        theme: the dress.
        rows: by the row's name, by relation.
        relations: in the order of the bars.
        emphasised: names of rows in the main colour.
    """
    lines = -(-len(rows) // _COLUMNS)
    figure = blank_figure(lines * (0.55 + 0.21 * len(relations)))
    grid = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    y = np.arange(len(relations))
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    for axes, (name, scores) in zip(grid.flat, rows.items(), strict=False):
        shown = [scores.get(relation) for relation in relations]
        values = [100 * score.value if score else 0 for score in shown]
        main = name in emphasised
        axes.barh(y, values, height=0.72, color=theme.accent if main else theme.faint)
        for position, score in zip(y, shown, strict=True):
            if score and score.low is not None:
                bounds = [100 * bound for bound in score.bounds]
                axes.plot(bounds, [position] * 2, color=theme.ink, lw=1)
            text = f"{100 * score.value:.0f}" if score else "-"
            shade = theme.surface if main else theme.ink
            axes.text(2, position, text, va="center", color=shade, fontsize=8)
        axes.axvline(50, color=theme.ink, lw=0.9, linestyle=(0, (2, 2)))
        axes.set_title(name)
        axes.set_xlim(0, 100)
        axes.set_yticks(y, relations)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        if axes.get_subplotspec().is_last_row():
            axes.set_xlabel("per cent right")
    grid[0, 0].invert_yaxis()
    return figure


def gate_means(theme: Theme, per_image_IK: Array, colours: Mapping[str, str]) -> "Figure":
    """Draw each expert's mean weight, and how it is spread over images.

    Args:
        theme: the dress.
        per_image_IK: mean weight of each expert over the tokens of each image.
        colours: by slot, in the order of the columns.
    """
    figure = blank_figure(0.7 + 0.42 * len(colours))
    axes = figure.add_subplot()
    mean_K = per_image_IK.mean(axis=0)
    low_K, high_K = np.quantile(per_image_IK, [0.1, 0.9], axis=0)
    for y, colour in enumerate(colours.values()):
        axes.barh(y, mean_K[y], height=0.55, color=colour)
        axes.plot([low_K[y], high_K[y]], [y, y], color=theme.ink, lw=1.5, solid_capstyle="butt")
        right = max(high_K[y], mean_K[y])
        axes.text(right, y, f"  {mean_K[y]:.2f}", va="center", fontweight="bold")
    equal = 1 / len(colours)
    axes.axvline(equal, color=theme.muted, lw=1, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(colours)), colours)
    axes.tick_params("y", length=0, labelcolor=theme.ink)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0, 1.15 * max(high_K.max(), equal))
    axes.set_xlabel(f"gate weight (dashed: equal shares, {equal:.2f})")
    return figure


def gate_layers(
    theme: Theme, per_layer_ILK: Array, colours: Mapping[str, str], ends: tuple[str, str]
) -> "Figure":
    """Draw the weight of each expert over layers of the image, the last layer on top.

    Args:
        theme: the dress.
        per_layer_ILK: mean weight per image and layer; nan where an image has no such layer.
        colours: by slot, in the order of the columns.
        ends: names of the first and the last layer.
    """
    figure = blank_figure(3.3)
    axes = figure.add_subplot()
    y = np.arange(per_layer_ILK.shape[1])
    mean_LK = np.nanmean(per_layer_ILK, axis=0)
    low_LK, high_LK = np.nanquantile(per_layer_ILK, [0.25, 0.75], axis=0)
    for k, (slot, colour) in enumerate(colours.items()):
        axes.fill_betweenx(y, low_LK[:, k], high_LK[:, k], color=colour, alpha=0.16, lw=0)
        axes.plot(mean_LK[:, k], y, "o-", color=colour, ms=4.5, lw=2, label=shown(slot))
    axes.axvline(1 / len(colours), color=theme.muted, lw=1, linestyle=(0, (2, 2)))
    axes.set_yticks([y[0], y[-1]], ends)
    axes.tick_params("y", length=0, labelcolor=theme.ink)
    axes.set_xlabel(f"gate weight (dashed: equal shares, {1 / len(colours):.2f})")
    axes.set_xlim(left=0)
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=legend_columns(colours), handlelength=1.4)
    return figure
