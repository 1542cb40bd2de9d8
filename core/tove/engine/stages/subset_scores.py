"""The scores of a trained model that runs some of its experts, every set of them measured once.

The tokens of frozen networks are taken from the model's cache: what a set costs is one pass of what
joins the tokens and of the language model.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.engine.rows import TABLE_METRICS, nested_metrics
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, item_scores
from tove.errors import ConfigError, close_matches
from tove.evaluation.contribution import Coalition

__all__ = ["Scores", "SubsetScores", "running_only"]

Scores = dict[str, dict[str, float]]
"""By metric {value, and low, high, n where the metric gives them}."""

_MAX_GB = 2.0  # of tokens, for a model whose config keeps none


@contextmanager
def running_only(hub: ExpertHub, kept: Collection[str]) -> Iterator[None]:
    """Run no other experts of a hub than these while it is on."""
    detached = [slot for slot in hub.attached if slot not in kept]
    for slot in detached:
        hub.detach(slot)
    try:
        yield
    finally:
        for slot in detached:
            hub.attach(slot)


class SubsetScores:
    """Scores of sets of a model's experts.

    Args:
        context: the run.
        model: with all its experts; left as it was.
        stage: in whose folder mmengine logs.
        loader: the name of the data loader that is evaluated on.

    Attributes:
        slots: of the experts.
        items: on the main process, the scores of each item by metric, by set.
    """

    def __init__(
        self,
        context: StageContext,
        model: Any,  # noqa: ANN401 - a method's
        stage: str,
        loader: str = "val_dataloader",
    ) -> None:
        if model.cache is None:
            model.cache = TokenCache(max_gb=_MAX_GB)
        self.model, self.loader = model, loader
        self.slots: tuple[str, ...] = model.hub.attached
        self._shown = tuple(context.cfg.get("table_metrics", TABLE_METRICS))
        self._runner = evaluation_runner(context, stage, model, loader)
        self._scores: dict[Coalition, Scores] = {}
        self.items: dict[Coalition, dict[str, dict[str, float]]] = {}

    def of(self, kept: Coalition) -> Scores:
        """Return the scores of the model with these experts alone."""
        if kept not in self._scores:
            with running_only(self.model.hub, kept):
                self._scores[kept] = nested_metrics(self._runner.test())
            self.items[kept] = item_scores(self._runner)
        return self._scores[kept]

    def value(self, kept: Coalition, metric: str) -> float:
        """Return one score."""
        return self.of(kept)[metric]["value"]

    def metric(self, wanted: str | None) -> str:
        """Return the metric that a ranking goes by.

        Args:
            wanted: the user's; None is the first of `table_metrics` that is measured, or else the
                first metric there is.

        Raises:
            ConfigError: the evaluator does not give it.
        """
        scores = self.of(frozenset(self.slots))
        names = [wanted] if wanted else [*self._shown, *scores]
        found = next((name for name in names if name in scores), None)
        if found is None:
            raise ConfigError(
                f"Experts are to be ranked by '{wanted}', which is not measured on {self.loader}. "
                f"{close_matches(wanted or '', scores)} Set `metric` of the detach stage."
            )
        return found
