"""The contribution stage: what each expert adds to every score, and what each set of them costs.

    contribution.json
        experts     the slots
        measures    {leave_one_out | add_one_in | shapley: {metric: {slot: {value, low, high}}}},
                    low and high where the metric scores items; `standard_error` where orders of
                    the experts were drawn
        gate        {slot: mean gate weight on the validation split}, of a model with a gate
        costs       {slot: {flops, forward_ms, ...}} of one image
        sets        [{experts, metrics, flops, forward_ms}], every set that was scored
        fronts      {flops | forward_ms: {metric: [positions in `sets`]}}, the sets that no other
                    one beats: none is as cheap or cheaper and scores more

See `tove.evaluation.contribution` for the measures. Nothing is trained, and there are no rows.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
from mmengine.dist import is_main_process
from rich import box
from rich.table import Table

from tove.atomic_io import write_text
from tove.config.validation import Range, check_value
from tove.engine.rows import make_console
from tove.engine.stages.context import StageContext
from tove.engine.stages.source import check_detachable, check_source
from tove.engine.stages.subset_scores import SubsetScores, running_only
from tove.errors import ConfigError
from tove.evaluation.contribution import (
    EXACT_TO,
    Additions,
    Coalition,
    add_one_in,
    contribution,
    leave_one_out,
    needed,
    pareto_front,
    shapley,
    standard_error,
)
from tove.evaluation.intervals import bootstrap_interval, image_of
from tove.evaluation.profile.model import measure_cost, measure_joining
from tove.protocols import Row
from tove.registry import RANKINGS, STAGES

__all__ = ["ContributionStage"]

_COSTS = ("flops", "forward_ms")

Found = dict[str, dict[str, dict[str, float]]]
"""By metric, by slot."""


@STAGES.register_module()
class ContributionStage:
    """Scores a trained model with sets of its experts: all 2^K up to 8 of them, else drawn ones.

    Args:
        name: the stage's name.
        source: the stage whose model is looked at.
        loader: the data that is scored. Whoever chooses experts by it should not choose them on the
            test split.
        permutations: orders of the experts that are drawn where there are more than 8.
    """

    depends_on: tuple[str, ...] = ("model", "test_evaluator", "seed", "val_dataloader")
    repeats = False

    def __init__(
        self, name: str, source: str, loader: str = "val_dataloader", permutations: int = 64
    ) -> None:
        self.name, self.source = name, source
        self.loader, self.permutations = loader, permutations
        self.depends_on = tuple(dict.fromkeys((*self.depends_on, loader)))

    def check(self, context: StageContext) -> None:
        """Check that there is a model whose experts can be detached, and data to score it on."""
        check_source(context, self.name, self.source)
        context.require(self.name, self.loader, "test_evaluator")
        where = f"stages.{self.name}.permutations"
        check_value(self.permutations, Annotated[int, Range(2)], where)
        check_detachable(context, self.name, self.source)

    def run(self, context: StageContext) -> list[Row]:
        """Score the sets, write what comes of them; there are no rows."""
        path = context.model_path(self.source)
        model: Any = context.load_model(path)[0]
        scores = SubsetScores(context, model, self.name, self.loader)
        if not scores.slots:
            raise ConfigError(
                f"Stage '{self.name}' has nothing to detach: {path} was trained without experts. "
                "Give it the checkpoint of a stage whose model has some."
            )
        measures = self._measures(context, scores.slots)
        order = sorted(needed(*measures.values()), key=lambda kept: _place(kept, scores.slots))
        sets = [_scored(scores, kept) for kept in order]
        gate = _gate(context, model)
        if is_main_process():  # no process waits for another from here on
            self._write(context, scores, measures, sets, gate)
        return []

    def _measures(self, context: StageContext, slots: Sequence[str]) -> dict[str, Additions]:
        return {
            "leave_one_out": leave_one_out(slots),
            "add_one_in": add_one_in(slots),
            "shapley": shapley(slots, self.permutations, context.seed),
        }

    def _write(
        self,
        context: StageContext,
        scores: SubsetScores,
        measures: Mapping[str, Additions],
        sets: list[dict[str, Any]],
        gate: Mapping[str, float] | None,
    ) -> None:
        drawn = len(scores.slots) > EXACT_TO
        costs = _costs(context, scores.model, sets)
        found = {
            name: _contributions(scores, additions, drawn and name == "shapley")
            for name, additions in measures.items()
        }
        written = {
            "source": self.source,
            "loader": self.loader,
            "experts": list(scores.slots),
            "permutations": self.permutations if drawn else None,
            "measures": found,
            "gate": gate,
            "costs": costs,
            "sets": sets,
            "fronts": _fronts(sets),
        }
        path = context.folder(self.name) / "contribution.json"
        write_text(path, json.dumps(written, indent=1) + "\n")
        context.files[path] = f"what each expert adds to the scores of {self.source}"
        make_console().print(_table(found, gate, scores.metric(None)))


def _place(kept: Coalition, slots: Sequence[str]) -> tuple[int, list[int]]:
    """Return a set's place: the smaller first, then by the slots' order."""
    return len(kept), [slots.index(slot) for slot in slots if slot in kept]


def _scored(scores: SubsetScores, kept: Coalition) -> dict[str, Any]:
    experts = [slot for slot in scores.slots if slot in kept]
    return {"experts": experts, "metrics": scores.of(kept)}


def _contributions(scores: SubsetScores, additions: Additions, drawn: bool) -> Found:
    """Return the contributions to every metric that all sets have a finite score of."""
    sets = needed(additions)
    whole = scores.of(frozenset(scores.slots))
    found: Found = {}
    for metric in whole:
        if not all(np.isfinite(scores.of(s).get(metric, {}).get("value", np.nan)) for s in sets):
            continue
        value = partial(scores.value, metric=metric)
        found[metric] = {s: {"value": v} for s, v in contribution(additions, value).items()}
        if drawn:
            for slot, error in standard_error(additions, value).items():
                found[metric][slot]["standard_error"] = error
        for slot, ends in _intervals(scores, additions, metric).items():
            found[metric][slot] |= ends
    return found


def _intervals(
    scores: SubsetScores, additions: Additions, metric: str
) -> dict[str, dict[str, float]]:
    """Return the ends of the 95 % intervals over test items; none of a metric without items.

    A contribution is a sum of differences on the same items, so each item has one of its own.
    """
    items = list(scores.items[frozenset(scores.slots)].get(metric, {}))
    if not items:
        return {}
    images = [image_of(item) for item in items]

    def value(kept: Coalition) -> np.ndarray:
        own = scores.items[kept][metric]
        return np.array([own[item] for item in items])

    arrays = {kept: value(kept) for kept in needed(additions)}
    intervals = {
        slot: bootstrap_interval(each, images=images)
        for slot, each in contribution(additions, arrays.__getitem__).items()
    }
    return {slot: {"low": i.low, "high": i.high} for slot, i in intervals.items()}


def _gate(context: StageContext, model: Any) -> dict[str, float] | None:  # noqa: ANN401
    """Return the mean gate weights, of a model that has a gate and a validation split."""
    if not hasattr(model, "gate_weights") or "val_dataloader" not in context.cfg:
        return None
    weights: dict[str, float] = RANKINGS.get("gate")(context, model, None)
    return weights


def _costs(
    context: StageContext,
    model: Any,  # noqa: ANN401 - a method's
    sets: list[dict[str, Any]],
) -> dict[str, Any]:
    """Measure what each expert costs, and note in each set what it does.

    Of an expert that is known by its tokens alone nothing is, nor of sets with it.
    """
    here = [slot for slot in model.hub.attached if slot not in model.hub.absent()]
    size, device = context.image_size, context.device
    with running_only(model.hub, here):
        cost = measure_cost(model, size, device)["cost"]
    for entry in sets:
        if not set(entry["experts"]) <= set(here):
            continue
        with running_only(model.hub, entry["experts"]):
            joins = measure_joining(model, size, device)
        parts = [cost["encoder"], joins, *(cost["experts"][slot] for slot in entry["experts"])]
        entry |= {name: sum(part[name] for part in parts) for name in _COSTS}
    experts: dict[str, Any] = cost["experts"]
    return experts


def _fronts(sets: list[dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """Return the positions of the sets on the Pareto front, by cost, by metric."""
    known = [place for place, entry in enumerate(sets) if all(cost in entry for cost in _COSTS)]
    metrics = sets[-1]["metrics"]

    def front(cost: str, metric: str) -> list[int]:
        having = [place for place in known if metric in sets[place]["metrics"]]
        points = [(sets[p][cost], sets[p]["metrics"][metric]["value"]) for p in having]
        return [having[position] for position in pareto_front(points)]

    return {cost: {metric: front(cost, metric) for metric in metrics} for cost in _COSTS}


def _table(found: Mapping[str, Found], gate: Mapping[str, float] | None, metric: str) -> Table:
    """Lay the contributions to one metric out for the console."""
    table = Table(title=f"What each expert adds to {metric}", box=box.SIMPLE)
    table.add_column("expert")
    for name in (*found, *["gate weight"] * (gate is not None)):
        table.add_column(name.replace("_", " "), justify="right")
    for slot in found["shapley"].get(metric, {}):
        cells = [_shown(by_metric[metric][slot]) for by_metric in found.values()]
        table.add_row(slot, *cells, *([f"{gate[slot]:.3f}"] if gate else []))
    return table


def _shown(entry: Mapping[str, float]) -> str:
    value = f"{entry['value']:+.3f}"
    return f"{value} [{entry['low']:+.2f}, {entry['high']:+.2f}]" if "low" in entry else value
