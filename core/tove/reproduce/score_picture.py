"""The picture of a score card, for a README: what an expert adds, beside the others."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tove.atomic_io import atomic_writer
from tove.engine.rows import show_cost
from tove.report.row_roles import is_share, metric_label
from tove.report.theme import LIGHT, Theme, settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["card_figure", "write_picture"]


def write_picture(path: Path, cards: Sequence[Any], metric: str, seeds: int) -> None:
    """Draw the cards into a file, SVG or PNG by its ending.

    Args:
        path: of the file.
        cards: the one that the picture is about first.
        metric: that is drawn.
        seeds: that the cards are of.
    """
    import matplotlib

    kind = "png" if path.suffix.lower() == ".png" else "svg"
    with matplotlib.rc_context({**settings_of(LIGHT), "svg.hashsalt": "tove"}):
        buffer = io.BytesIO()
        metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure = card_figure(LIGHT, cards, metric, seeds)
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    with atomic_writer(path) as stream:
        stream.write(buffer.getvalue())


def card_figure(theme: Theme, cards: Sequence[Any], metric: str, seeds: int) -> "Figure":
    """Draw what each expert adds alone and last."""
    from matplotlib.figure import Figure

    scale = 100.0 if is_share(metric) else 1.0
    figure = Figure(figsize=(5.4, 1.15 + 0.34 * len(cards)))
    axes = figure.subplots()
    axes.axvline(0, color=theme.faint, lw=1.2, zorder=1)
    for place, card in enumerate(cards):
        colour = "#0072B2" if place == 0 else theme.muted
        for when, shift in (("alone", -0.14), ("last", 0.14)):
            found = card.adds[when][metric]
            at = place + shift
            ends = [scale * found.low, scale * found.high]
            axes.plot(ends, [at, at], color=colour, lw=1.5, alpha=0.6, zorder=2)
            face = colour if when == "alone" else theme.surface
            label = {"alone": "alone, over CLIP", "last": "last, over all others"}[when]
            axes.plot(
                scale * found.value,
                at,
                "o",
                ms=5.5,
                mfc=face,
                mec=colour,
                zorder=3,
                label=label if place == 0 else None,
            )
    axes.set_yticks(range(len(cards)), [card.expert for card in cards])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.tick_params(length=0)
    axes.set_ylim(len(cards) - 0.5, -0.5)
    unit = "points" if is_share(metric) else ""
    axes.set_xlabel(f"{metric_label(metric)}: {unit} added, 95 % over {seeds} seeds")
    axes.set_title(f"{cards[0].expert} in the miniature of tove", color=theme.ink)
    axes.legend(loc="lower right", fontsize=7.5)
    figure.supxlabel(_foot(cards[0]), x=0.99, ha="right", fontsize=7.5, color=theme.muted)
    return figure


def _foot(card: Any) -> str:  # noqa: ANN401 - a `Card`
    flops, memory = show_cost(card.costs, "flops"), show_cost(card.costs, "peak_memory_mb")
    return f"{flops} FLOPs, {memory} MB an image; weights: {card.licence}"
