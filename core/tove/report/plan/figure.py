"""The picture of a plan: where parameters, operations and memory are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tove.atomic_io import atomic_writer
from tove.engine.plan.results import Plan, StagePlan
from tove.report.figures import shown
from tove.report.theme import LIGHT, Theme, png, slot_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plan_figure", "write_picture"]

_COLUMNS = 4  # of the legend
_MEMORY = ("weights", "gradients", "optimizer", "activations")


def write_picture(path: Path, plan: Plan) -> None:
    """Draw a plan into a PNG file."""
    picture = png(lambda theme: plan_figure(theme, plan), LIGHT)
    with atomic_writer(path) as stream:
        stream.write(picture)


def plan_figure(theme: Theme, plan: Plan) -> "Figure":
    """Draw a bar per stage: parameters by part, operations by part, memory by kind.

    Args:
        theme: the dress.
        plan: of at least one stage.
    """
    from matplotlib.figure import Figure

    stages = plan.stages
    parts = list(dict.fromkeys(name for stage in stages for name in _by_part(stage, "flops")))
    lines = -(-len(parts) // _COLUMNS) + 3
    figure = Figure(figsize=(8.5, 0.9 + 0.45 * len(stages) + 0.2 * lines))
    panels = figure.subplots(1, 3, sharey=True)
    colours, kinds = slot_colours(parts), slot_colours(_MEMORY)
    counts = [_by_part(stage, "parameters") for stage in stages]
    flops = [_by_part(stage, "flops") for stage in stages]
    memory = [_memory(stage) for stage in stages]
    _bars(panels[0], theme, stages, counts, colours, "10^6 parameters", 1e-6)
    _bars(panels[1], theme, stages, flops, colours, "GFLOPs an image, forwards", 1e-9)
    _bars(panels[2], theme, stages, memory, kinds, "GB a device, not sharded", 1e-9)
    panels[0].invert_yaxis()
    by_part, by_kind = (panels[n].get_legend_handles_labels() for n in (0, 2))
    figure.legend(*by_part, loc="outside upper left", ncols=_COLUMNS, handlelength=1)
    figure.legend(*by_kind, loc="outside lower right", ncols=len(kinds), handlelength=1)
    return figure


def _by_part(stage: StagePlan, what: str) -> dict[str, float]:
    """Return a number of each part; one inside a teacher has the part's own name."""
    found: dict[str, float] = {}
    for part in stage.parts:
        name = part.name.rpartition(": ")[2]
        found[name] = found.get(name, 0) + (getattr(part, what) or 0)
    return found


def _memory(stage: StagePlan) -> dict[str, float]:
    if stage.memory is None:
        return {}
    return {kind: getattr(stage.memory, kind) for kind in _MEMORY}


def _bars(
    axes: "Axes",
    theme: Theme,
    stages: Sequence[StagePlan],
    values: Sequence[Mapping[str, float]],
    colours: Mapping[str, str],
    label: str,
    scale: float,
) -> None:
    for name, colour in colours.items():
        left = [scale * sum(_before(own, name)) for own in values]
        width = [scale * own.get(name, 0) for own in values]
        bars = axes.barh(range(len(stages)), width, 0.6, left, color=colour, label=shown(name))
        for bar in bars:
            bar.set(edgecolor=theme.surface, linewidth=0.6)
    axes.set_yticks(range(len(stages)), [stage.name for stage in stages])
    axes.tick_params("y", length=0, labelcolor=theme.ink)
    axes.set_xlabel(label)
    axes.grid(axis="x")
    axes.locator_params(axis="x", nbins=4)


def _before(own: Mapping[str, float], name: str) -> list[float]:
    """Return the values of a bar's parts before one, in their order."""
    names = list(own)
    return [own[n] for n in names[: names.index(name)]] if name in own else []
