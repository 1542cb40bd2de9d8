"""The statistics by which experts' tokens are normalised, taken before a training begins.

They are those of some of the training's samples, the same for all ranks, and belong to what the
model has learned: a slot that goes on from an earlier model keeps what it was trained with.
"""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from mmengine.dist import get_dist_info
from torch import Tensor
from torch.utils.data import DataLoader

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
    rank, ranks = get_dist_info()
    dataset: Any = loader.dataset
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    own = drawn[:_SAMPLES][rank::ranks]
    for indices in own.split(loader.batch_size or 1):
        batch = loader.collate_fn([dataset[index] for index in indices.tolist()])
        batch = model.data_preprocessor(batch)
        if len(batch["images"]):  # samples may be texts alone
            yield model.expert_tokens(slots, batch["images"], batch["data_samples"])
