"""What each expert adds to the scores: its measures, its cost, and the sets that nothing beats."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tove.engine.rows import show_cost
from tove.report import contribution_figures as figures
from tove.report.contribution_figures import COSTS, Point
from tove.report.page import Section, Table, section
from tove.report.report_data import Material
from tove.report.row_roles import format_score, is_share, metric_label
from tove.report.theme import Picture, draw

__all__ = ["contribution_section", "kinds_section"]

_MEASURES = {"shapley": "Shapley value", "leave_one_out": "last to come", "add_one_in": "alone"}
_SHOWN_COSTS = ("flops", "forward_ms", "total_parameters")

Found = Mapping[str, Any]
"""What a `contribution.json` holds."""


def _measured(material: Material) -> Found | None:
    """Return what the config's last contribution stage that has run found."""
    for stage in reversed(material.stages("ContributionStage")):
        path = material.context.folder(stage) / "contribution.json"
        if path.is_file():
            found: Found = json.loads(path.read_text("utf-8"))
            return found
    return None


def _metric(material: Material, found: Found) -> str:
    known = found["measures"]["shapley"]
    return next(metric for metric in (*material.metrics, *known) if metric in known)


@section(52)
def contribution_section(material: Material) -> Section | None:
    """Show what each expert adds to the first of the headline's metrics, against what it costs."""
    found = _measured(material)
    if found is None:
        return None
    metric = _metric(material, found)
    gate, measures = found["gate"], found["measures"]
    header = ["expert", *_MEASURES.values(), *["gate weight"] * (gate is not None)]
    header += ["FLOPs", "ms", "parameters"]
    rows = [
        [
            slot,
            *(_added(metric, measures[name][metric][slot]) for name in _MEASURES),
            *([f"{gate[slot]:.3f}"] if gate else []),
            *(show_cost(found["costs"].get(slot, {}), cost) for cost in _SHOWN_COSTS),
        ]
        for slot in found["experts"]
    ]
    table = Table(header, rows, range(1, len(header)))
    pictures = _pictures(material, found, metric)
    return Section("contribution", "What each expert adds", [_note(found, metric)], table, pictures)


def _note(found: Found, metric: str) -> str:
    drawn, number = found["permutations"], len(found["sets"])
    how = (
        f"over {drawn} orders drawn at random, ± its standard error"
        if drawn
        else f"over all orders of coming, from the scores of all {number} sets of experts"
    )
    return (
        f"What is added to {metric_label(metric)} on {found['loader'].removesuffix('_dataloader')} "
        f"data, nothing re-tuned: by each expert on average {how} (the values add up to the gain "
        "of all); when it comes last; when it is alone. In brackets 95 % intervals over test items."
    )


def _added(metric: str, entry: Mapping[str, float]) -> str:
    def shown(value: float) -> str:
        text = format_score(metric, abs(value), unit=False)
        return f"{'-' if value < 0 and float(text) else '+'}{text}"

    text = shown(entry["value"])
    if "standard_error" in entry:
        text += f" ± {format_score(metric, entry['standard_error'], unit=False)}"
    if "low" in entry:
        text += f"\n{shown(entry['low'])} to {shown(entry['high'])}"
    return text


def _pictures(material: Material, found: Found, metric: str) -> list[Picture]:
    """Draw what is known of both costs."""
    values, costs = found["measures"]["shapley"][metric], found["costs"]
    experts = [
        Point(slot, costs[slot], values[slot]["value"], _bounds(values[slot]))
        for slot in found["experts"]
        if slot in costs
    ]
    sets = [
        (place, Point(" + ".join(entry["experts"]), entry, entry["metrics"][metric]["value"]))
        for place, entry in enumerate(found["sets"])
        if all(cost in entry for cost in COSTS) and metric in entry["metrics"]
    ]
    if not (experts and sets):
        return []
    gain = partial(
        figures.gain_against_cost, points=experts, colours=material.colours, metric=metric
    )
    places = [place for place, _ in sets]
    points = [point for _, point in sets]
    fronts = {
        cost: [places.index(p) for p in found["fronts"][cost].get(metric, ())] for cost in COSTS
    }
    front = partial(figures.pareto_fronts, points=points, fronts=fronts, metric=metric)
    return [
        draw("contribution", *_gain_words(metric, experts), gain),
        draw("contribution_front", *_front_words(metric, points, fronts["flops"]), front),
    ]


def _bounds(entry: Mapping[str, float]) -> tuple[float, float] | None:
    return (entry["low"], entry["high"]) if "low" in entry else None


def _gain_words(metric: str, experts: Sequence[Point]) -> tuple[str, str]:
    best = max(experts, key=lambda point: point.value)
    unit = " points" if is_share(metric) else ""
    caption = (
        f"Each expert's Shapley value for {metric_label(metric)} against what it costs by itself. "
        f"Most is added by {best.name}: {format_score(metric, best.value, unit=False)}{unit}. "
        "Lines are 95 % intervals over test items."
    )
    return f"{metric_label(metric)} that each expert adds, against its cost", caption


def _front_words(metric: str, sets: Sequence[Point], front: Sequence[int]) -> tuple[str, str]:
    path = "; ".join(
        f"{sets[place].name or 'no expert'} {format_score(metric, sets[place].value)}"
        for place in front
    )
    caption = (
        f"Every set of experts: {metric_label(metric)} against the cost of the vision side. Filled "
        "are those that no other set beats: none is as cheap and scores more. By FLOPs, from the "
        f"cheapest on: {path}."
    )
    return f"{metric_label(metric)} of every set of experts, against its cost", caption


@section(53)
def kinds_section(material: Material) -> Section | None:
    """Show what each expert adds on each kind of question, or relation."""
    found = _measured(material)
    if found is None:
        return None
    shapley = found["measures"]["shapley"]
    kinds = [metric for metric in shapley if "/relation/" in metric]
    if not kinds:
        return None
    experts = found["experts"]
    kinds.sort(key=lambda kind: -sum(shapley[kind][slot]["value"] for slot in experts))
    rows = [
        [
            kind.partition("/relation/")[2],
            *(_added(kind, shapley[kind][slot]) for slot in experts),
            _added(kind, {"value": sum(shapley[kind][slot]["value"] for slot in experts)}),
        ]
        for kind in kinds
    ]
    header = ["kind", *experts, "all together"]
    note = (
        "Shapley values by relation or kind of question, in points of the share answered right; "
        "what all add together the most on top. A kind with few items tells little."
    )
    table = Table(header, rows, range(1, len(header)))
    return Section("contribution-kinds", "What each expert adds, by kind", [note], table)
