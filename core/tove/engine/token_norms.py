"""The statistics by which experts' tokens are normalised, taken before a training begins.

They are those of some of the training's samples, the same for all ranks, and belong to what the
model has learned: a slot that goes on from an earlier model keeps what it was trained with.
"""

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from tove.engine.drawn_batches import drawn_batches

__all__ = ["fit_token_norms"]

_SAMPLES = 256  # 16,384 tokens of an 8 x 8 grid: a mean's standard error is below 0.01 sigma


def fit_token_norms(
    model: Any,  # noqa: ANN401 - a method
    loader: DataLoader,
    seed: int,
    kept: Collection[str] = (),
) -> None:
    """Fit the normalisation of every expert's tokens that needs it.

    Args:
        model: on its device, before it is wrapped or sharded.
        loader: of the training.
        seed: of the choice of samples.
        kept: slots that keep what an earlier model was trained with.
    """
    if not hasattr(model, "hub"):  # a method of its own making
        return
    slots = [slot for slot in model.hub.fitted_norms() if slot not in kept]
    if slots:
        model.hub.fit_norms(slots, _sample(model, slots, loader, seed))


def _sample(
    model: Any,  # noqa: ANN401
    slots: Collection[str],
    loader: DataLoader,
    seed: int,
) -> Iterator[dict[str, Tensor]]:
    """Yield the experts' own tokens of this rank's part of the sample, by slot."""
    for batch in drawn_batches(model, loader, seed, _SAMPLES):
        if len(batch["images"]):  # samples may be texts alone
            yield model.expert_tokens(slots, batch["images"], batch["data_samples"])
