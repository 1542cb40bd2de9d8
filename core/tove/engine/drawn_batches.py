"""Some of a training's samples, looked at before it begins, whatever the number of ranks."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader

__all__ = ["drawn_batches"]


def drawn_batches(
    model: Any,  # noqa: ANN401 - a method
    loader: DataLoader,
    seed: int,
    number: int,
    even: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield this rank's part of the samples, on the model's device.

    Args:
        model: before it is wrapped or sharded.
        loader: of the training.
        seed: of the choice of samples.
        number: of samples, or all where there are fewer.
        even: leave out what does not give all ranks as many, for works that they do together.
    """
    rank, ranks = get_dist_info()
    dataset: Any = loader.dataset
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:number]
    if even:
        drawn = drawn[: len(drawn) // ranks * ranks]
    own = drawn[rank::ranks]
    for indices in own.split(loader.batch_size or 1):
        batch = loader.collate_fn([dataset[index] for index in indices.tolist()])
        yield model.data_preprocessor(batch)
