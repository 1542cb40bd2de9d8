"""The detach stage: drop experts one by one, lowest mean gate weight first, without re-tuning.

    rank_k = mean over held-out images and tokens of g_ik        method 1.4

What is measured after each removal is a model that was BUILT without the removed experts: they are
not loaded, cost nothing, and their packages need not be installed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process

from tove.checkpoint import save_checkpoint
from tove.errors import ConfigError
from tove.model import ToVE
from tove.registry import STAGES
from tove.rows import write_rows
from tove.stages.context import Row, StageContext
from tove.stages.measure import evaluation_runner, measure_row
from tove.stages.source import check_source

__all__ = ["DetachStage", "mean_gate_weights"]


@STAGES.register_module()
class DetachStage:
    """Ranks the experts on `val_dataloader`, measures every removal on `test_dataloader`.

    Args:
        name: the stage's name.
        source: the stage whose checkpoint is taken apart.
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
        self, name: str, source: str = "transfer", budget: int | Sequence[int] | None = None
    ) -> None:
        self.name = name
        self.source = source
        self.budget = [budget] if isinstance(budget, int) else budget

    def check(self, context: StageContext) -> None:
        """Check that there is a model to take apart."""
        check_source(context, self.name, self.source)

    def run(self, context: StageContext) -> list[Row]:
        """Rank, then build, measure and save the model after each removal."""
        path = context.model_path(self.source)
        model, meta = context.load_model(path)
        slots = list(model.hub.attached)
        if not slots:
            raise ConfigError(
                f"Stage '{self.name}' has nothing to detach: {path} was trained without experts. "
                "Give it the checkpoint of a stage with arm='tove'."
            )
        weights = mean_gate_weights(context, model)
        order = sorted(slots, key=lambda slot: weights[slot])
        if is_main_process():
            ranking = [{"slot": slot, "mean_gate_weight": weights[slot]} for slot in order]
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
        runner = evaluation_runner(context, self.name, model)
        return measure_row(
            context,
            runner,
            name=f"tove-{removed[-1]}",
            experts=kept,
            stage=self.name,
            training_images=meta.get("training_images", 0),
            steps=meta.get("steps", 0),
        )

    def _save(
        self, context: StageContext, model: ToVE, meta: dict[str, Any], kept: list[str]
    ) -> None:
        if self.budget is not None and len(kept) not in self.budget:
            return
        path = context.folder(self.name) / f"slim_{len(kept)}.pth"
        if is_main_process():
            slim = {**meta, "stage": self.name, "attached": kept}
            save_checkpoint(path, model, slim)
        context.files[path] = f"slim checkpoint with {', '.join(kept) or 'no expert'}"


@torch.no_grad()
def mean_gate_weights(context: StageContext, model: ToVE) -> dict[str, float]:
    """Average the gate over the images and tokens of the validation split.

    Args:
        context: the run.
        model: has a gate over the experts that are to be ranked; none of them runs.

    Returns:
        Mean weight by slot; they sum to one.
    """
    model.eval()
    total_K, num_tokens = None, 0
    for batch in context.evaluation_loader("val"):
        data = model.data_preprocessor(batch, training=False)
        ids = [sample["image_id"] for sample in data["data_samples"]]
        gate_BNK = model.gate_weights(data["images"], ids)
        sum_K = gate_BNK.double().sum(dim=(0, 1))
        total_K = sum_K if total_K is None else total_K + sum_K
        num_tokens += gate_BNK.shape[0] * gate_BNK.shape[1]
    if total_K is None:
        raise ConfigError(
            "The validation split is empty, so the experts cannot be ranked; give it images."
        )
    totals = torch.cat([total_K.cpu(), torch.tensor([float(num_tokens)], dtype=torch.float64)])
    all_reduce(totals)
    means = (totals[:-1] / totals[-1]).tolist()
    return dict(zip(model.hub.slots, means, strict=True))
