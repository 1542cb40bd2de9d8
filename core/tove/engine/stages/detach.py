"""The detach stage: drop experts one by one, the least useful first, without re-tuning.

Which one is the least useful a rule says, by its name in RANKINGS: `leave_one_out`, `add_one_in`,
`shapley`, `gate`, `random`, or a function of one's own,

    rank(context, model, metric) -> {slot: score}        the lowest score goes first

that may look at `val_dataloader` and nothing else.

What is measured after each removal is a model that was BUILT without the removed experts: they are
not loaded, cost nothing, and their packages need not be installed.
"""

from collections.abc import Sequence
from typing import Any

from mmengine.dist import is_main_process

from tove.config.validation import look_up
from tove.engine.checkpoint import save_checkpoint
from tove.engine.rows import write_rows
from tove.engine.score_names import check_score
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
from tove.engine.stages.source import check_detachable, check_source
from tove.errors import ConfigError, close_matches
from tove.protocols import Method, Row
from tove.registry import RANKINGS, STAGES

__all__ = ["DetachStage"]


@STAGES.register_module()
class DetachStage:
    """Ranks the experts on `val_dataloader`, measures every removal on `test_dataloader`.

    Args:
        name: the stage's name.
        source: the stage whose checkpoint is taken apart.
        rule: the name of the ranking.
        metric: what a rule goes by that looks at scores; None is the first of `table_metrics` that
            is measured on the validation split, or else the first metric there.
        budget: numbers of experts to keep, each of which gets a slim checkpoint
            `slim_<number>.pth`; None gives every number one.
    """

    depends_on = (
        "model",
        "val_dataloader",
        "test_dataloader",
        "test_evaluator",
        "seed",
    )
    repeats = False

    def __init__(
        self,
        name: str,
        source: str,
        rule: str = "leave_one_out",
        metric: str | None = None,
        budget: int | Sequence[int] | None = None,
    ) -> None:
        self.name, self.source = name, source
        self.rule, self.metric = rule, metric
        self.budget = [budget] if isinstance(budget, int) else budget

    def check(self, context: StageContext) -> None:
        """Check that there is a model to take apart, by which rule, and how far."""
        check_source(context, self.name, self.source)
        context.require(self.name, "val_dataloader", "test_evaluator")
        if RANKINGS.get(self.rule) is None:
            raise ConfigError(
                f"stages.{self.name}.rule is '{self.rule}', which ranks nothing. "
                f"{close_matches(self.rule, RANKINGS.module_dict)}"
            )
        slots = check_detachable(context, self.name, self.source)
        if slots is None:
            return  # those of the checkpoint count
        wrong = [number for number in self.budget or () if not 0 <= number < len(slots)]
        if wrong:
            raise ConfigError(
                f"stages.{self.name}.budget asks for a model with {wrong[0]} experts, but "
                f"detaching from {len(slots)} leaves 0 to {len(slots) - 1}."
            )

    def rehearse(self, context: StageContext) -> None:
        """Check that what the experts are ranked by is measured, behind the right prefix too."""
        if self.metric is not None:
            data = context.evaluation_loader("val_dataloader").dataset
            check_score(self.metric, data, context.evaluator(), f"stages.{self.name}.metric")

    def run(self, context: StageContext) -> list[Row]:
        """Rank, then build, measure and save the model after each removal."""
        path = context.model_path(self.source)
        model, meta = context.load_model(path)
        slots = list(model.provenance())
        if not slots:
            raise ConfigError(
                f"Stage '{self.name}' has nothing to detach: {path} was trained without experts. "
                "Give it the checkpoint of a stage whose model has some."
            )
        scores = look_up(RANKINGS, self.rule, f"stages.{self.name}.rule")(
            context, model, self.metric
        )
        # Rounded: what is equal must not be put in order by how images fell into batches.
        order = sorted(slots, key=lambda slot: round(scores[slot], 6))
        if is_main_process():
            ranking = [{"slot": slot, "rule": self.rule, "score": scores[slot]} for slot in order]
            write_rows(context.folder(self.name) / "ranking.json", ranking)
        del model
        return [
            self._without(context, meta, removed=order[: count + 1], slots=slots)
            for count in range(len(order))
        ]

    def _without(
        self, context: StageContext, meta: dict[str, Any], removed: list[str], slots: list[str]
    ) -> Row:
        """Measure the model without the experts of `removed`, the last of which went now."""
        kept = [slot for slot in slots if slot not in removed]
        model, _ = context.load_model(context.model_path(self.source), slots=kept)
        self._save(context, model, meta, kept)
        return measure_row(
            context,
            evaluation_runner(context, self.name, model),
            name=f"{meta.get('row', 'tove')}-{removed[-1]}",
            role="detached",
            experts=kept,
            stage=self.name,
            training_images=meta.get("training_images", 0),
            steps=meta.get("steps", 0),
        )

    def _save(
        self, context: StageContext, model: Method, meta: dict[str, Any], kept: list[str]
    ) -> None:
        if self.budget is not None and len(kept) not in self.budget:
            return
        path = context.folder(self.name) / f"slim_{len(kept)}.pth"
        save_checkpoint(path, model, {**meta, "stage": self.name, "attached": kept})
        context.files[path] = f"slim checkpoint with {', '.join(kept) or 'no expert'}"
