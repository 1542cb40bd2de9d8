"""Ranking by the gate: how much of the tokens' weight an expert is given (method 1.4).

    rank_k = mean over held-out images and tokens of g_ik

Shapes: B batch, N tokens, K slots, I images of the validation split.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object

from tove.engine.stages.context import StageContext
from tove.errors import ConfigError
from tove.registry import RANKINGS

__all__ = ["mean_gate_weights"]


@RANKINGS.register_module(name="gate")
def by_gate(context: StageContext, model: Any, metric: str | None) -> dict[str, float]:  # noqa: ANN401
    """Return the mean gate weights.

    Raises:
        ConfigError: the model has no gate.
    """
    if not hasattr(model, "gate_weights"):
        raise ConfigError(
            f"rule='gate' ranks experts by a gate, which {type(model).__name__} does not have; set "
            "the detach stage's rule to 'leave_one_out'."
        )
    return mean_gate_weights(context, model)


@torch.no_grad()
def mean_gate_weights(context: StageContext, model: Any) -> dict[str, float]:  # noqa: ANN401
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
    for batch in context.evaluation_loader("val_dataloader"):
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
