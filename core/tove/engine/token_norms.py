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

from tove.backbones.preprocess import to_unit_range

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
        model.hub.fit_norms(slots, _sample(model, loader, seed))


def _sample(model: Any, loader: DataLoader, seed: int) -> Iterator[Tensor]:  # noqa: ANN401
    """Yield this rank's images of the sample, [B, 3, H, W] in [0, 1]."""
    rank, ranks = get_dist_info()
    dataset: Any = loader.dataset
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    own = drawn[:_SAMPLES][rank::ranks]
    for indices in own.split(loader.batch_size or 1):
        batch = loader.collate_fn([dataset[index] for index in indices.tolist()])
        images_BCHW = to_unit_range(model.data_preprocessor(batch)["images"])
        if len(images_BCHW):  # samples may be texts alone
            yield images_BCHW
