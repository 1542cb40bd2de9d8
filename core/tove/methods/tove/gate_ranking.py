"""Ranking by the gate: how much of the tokens' weight an expert is given.

    rank_k = mean over held-out images and tokens of g_ik

Shapes: B batch, N tokens, K slots, I images of the validation split.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import Tensor

from tove.engine.stages.context import StageContext
from tove.errors import ConfigError
from tove.registry import RANKINGS

__all__ = ["gates_by_image", "mean_gate_weights"]


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


def mean_gate_weights(context: StageContext, model: Any) -> dict[str, float]:  # noqa: ANN401
    """Average the gate over the images and tokens of the validation split, each image once.

    Args:
        context: the run.
        model: has a gate over the experts that are to be ranked.

    Returns:
        Mean weight by slot; they sum to one.
    """
    means = gates_by_image(context, model, "val_dataloader", _over_tokens)
    if not means:
        raise ConfigError(
            "The validation split has no image that can be read, so the experts cannot be ranked; "
            "give it images."
        )
    every_IK = torch.stack([means[image_id] for image_id in sorted(means)])
    return dict(zip(model.hub.slots, every_IK.mean(0).tolist(), strict=True))


def _over_tokens(gate_BNK: Tensor) -> Tensor:
    return gate_BNK.mean(1)


@torch.no_grad()
def gates_by_image(
    context: StageContext,
    model: Any,  # noqa: ANN401 - a method's
    loader: str,
    kept: Callable[[Tensor], Tensor] = lambda gate_BNK: gate_BNK,
) -> dict[str, Tensor]:
    """Ask a gate about each image of a split once.

    Samples may share an image, the sampler repeats some so that all processes have as many, and
    one stands in for an image that cannot be read (`skipped`).

    Args:
        context: the run.
        model: has a gate.
        loader: the name of the split's data loader.
        kept: what of a batch's weights [B, N, K] is kept.

    Returns:
        What is kept of each image by its id, over all processes, in float64 on the CPU.
    """
    model.eval()
    found: dict[str, Tensor] = {}
    for batch in context.evaluation_loader(loader):
        data = model.data_preprocessor(batch, training=False)
        rows = _new_images(data["data_samples"], found)
        if rows:
            images_BCHW = data["images"][list(rows.values())]
            gate_BNK = model.gate_weights(images_BCHW, list(rows))
            found |= zip(rows, kept(gate_BNK.double()).cpu(), strict=True)
    for others in all_gather_object(found):
        found |= others
    return found


def _new_images(samples: Sequence[Mapping[str, Any]], known: Collection[str]) -> dict[str, int]:
    """Give a batch's images that are not known yet: id to the row of its first sample."""
    rows: dict[str, int] = {}
    for row, sample in enumerate(samples):
        if not sample.get("skipped") and sample["image_id"] not in known:
            rows.setdefault(sample["image_id"], row)
    return rows
