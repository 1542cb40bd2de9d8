"""The detach stage: drop experts one by one, lowest mean gate weight first, without re-tuning.

    rank_k = mean over held-out images and tokens of g_ik        method 1.4

Shapes: B batch, N tokens, K slots, I images of the validation split.

What is measured after each removal is a model that was BUILT without the removed experts: they are
not loaded, cost nothing, and their packages need not be installed.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, is_main_process

from tove.engine.checkpoint import save_checkpoint
from tove.engine.rows import write_rows
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
from tove.engine.stages.source import check_source
from tove.errors import ConfigError
from tove.methods.tove.model import ToVE
from tove.protocols import Row
from tove.registry import STAGES

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
        """Check that there is a model to take apart, and how far."""
        check_source(context, self.name, self.source)
        context.require(self.name, "val_dataloader", "test_evaluator")
        if context.checkpoint:
            return  # its own experts count
        entries = {entry["name"]: entry for entry in context.cfg.stages}
        over = entries.get(self.source, {}).get("model", {})
        detached = context.model_settings(over).get("detached", ())
        slots = [slot for slot in context.slots if slot not in detached]
        if context.arm(over) != "tove" or not slots:
            raise ConfigError(
                f"Stage '{self.name}' has nothing to detach: stage '{self.source}' trains "
                f"arm='{context.arm(over)}' with {len(slots)} experts. Take the stage out, or name "
                "as its source a stage with arm='tove' and experts."
            )
        wrong = [number for number in self.budget or () if not 0 <= number < len(slots)]
        if wrong:
            raise ConfigError(
                f"stages.{self.name}.budget asks for a model with {wrong[0]} experts, but "
                f"detaching from {len(slots)} leaves 0 to {len(slots) - 1}."
            )

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
        # Rounded: what is equal must not be put in order by how images fell into batches.
        order = sorted(slots, key=lambda slot: round(weights[slot], 6))
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
    """Average the gate over the images and tokens of the validation split, each image once.

    Samples may share an image, the sampler repeats some so that all processes have as many, and
    one stands in for an image that cannot be read (`skipped`).

    Args:
        context: the run.
        model: has a gate over the experts that are to be ranked; none of them runs.

    Returns:
        Mean weight by slot; they sum to one.
    """
    model.eval()
    means: dict[str, list[float]] = {}  # by image id, [K]
    for batch in context.evaluation_loader("val"):
        data = model.data_preprocessor(batch, training=False)
        rows = _new_images(data["data_samples"], means)
        if rows:
            images_BCHW = data["images"][list(rows.values())]
            gate_BNK = model.gate_weights(images_BCHW, list(rows))
            means |= zip(rows, gate_BNK.double().mean(1).tolist(), strict=True)
    for others in all_gather_object(means):
        means |= others
    if not means:
        raise ConfigError(
            "The validation split has no image that can be read, so the experts cannot be ranked; "
            "give it images."
        )
    every_IK = torch.tensor([means[image_id] for image_id in sorted(means)], dtype=torch.float64)
    return dict(zip(model.hub.slots, every_IK.mean(0).tolist(), strict=True))


def _new_images(samples: Sequence[Mapping[str, Any]], known: Collection[str]) -> dict[str, int]:
    """Give a batch's images that are not known yet: id to the row of its first sample."""
    rows: dict[str, int] = {}
    for row, sample in enumerate(samples):
        if not sample.get("skipped") and sample["image_id"] not in known:
            rows.setdefault(sample["image_id"], row)
    return rows
