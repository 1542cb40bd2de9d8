"""The rules by which experts are detached: functions in RANKINGS, see `tove.engine.stages.detach`.

All but `random` go by a score on the validation split, see `tove.evaluation.contribution`. A rule
leaves the model as it was.
"""

import random
from functools import partial
from typing import Any

from tove.engine.stages.context import StageContext
from tove.engine.stages.subset_scores import SubsetScores
from tove.evaluation import contribution
from tove.evaluation.contribution import Additions
from tove.registry import RANKINGS

__all__ = ["add_one_in", "at_random", "leave_one_out", "shapley"]


def _ranked(scores: SubsetScores, additions: Additions, metric: str | None) -> dict[str, float]:
    """Return the contributions to a metric, larger being better; None chooses it."""
    value = partial(scores.value, metric=scores.metric(metric))
    return contribution.contribution(additions, value)


@RANKINGS.register_module(name="leave_one_out")
def leave_one_out(context: StageContext, model: Any, metric: str | None) -> dict[str, float]:  # noqa: ANN401
    """Return what each expert adds last: the score less that without it."""
    scores = SubsetScores(context, model, "ranking")
    return _ranked(scores, contribution.leave_one_out(scores.slots), metric)


@RANKINGS.register_module(name="add_one_in")
def add_one_in(context: StageContext, model: Any, metric: str | None) -> dict[str, float]:  # noqa: ANN401
    """Return what each expert adds alone: the score with it less that without any."""
    scores = SubsetScores(context, model, "ranking")
    return _ranked(scores, contribution.add_one_in(scores.slots), metric)


@RANKINGS.register_module(name="shapley")
def shapley(context: StageContext, model: Any, metric: str | None) -> dict[str, float]:  # noqa: ANN401
    """Return what each expert adds on average over the orders in which they may come."""
    scores = SubsetScores(context, model, "ranking")
    return _ranked(scores, contribution.shapley(scores.slots, seed=context.seed), metric)


@RANKINGS.register_module(name="random")
def at_random(context: StageContext, model: Any, metric: str | None) -> dict[str, float]:  # noqa: ANN401
    """Return an order drawn from the run's seed: what any rule has to beat."""
    generator = random.Random(context.seed)
    return {slot: generator.random() for slot in model.provenance()}
