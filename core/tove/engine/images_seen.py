"""Which images a training has seen: told afterwards, by replaying its sampler."""

import itertools
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import Runner

__all__ = ["images_seen"]


def images_seen(runner: Runner, steps: int) -> set[str]:
    """Tell which distinct images a training run drew and could read, by replaying its sampler.

    Args:
        runner: after training.
        steps: how many batches it drew.

    Returns:
        The image ids, over all ranks.
    """
    loader = runner.train_dataloader
    sampler, dataset = loader.sampler, loader.dataset
    draws = steps * (loader.batch_size or 1) * get_world_size()
    indices: set[int] = set()
    endless = hasattr(sampler, "_infinite_indices")
    stream = (
        itertools.islice(sampler._infinite_indices(), draws) if endless else range(len(dataset))
    )
    for index in stream:
        indices.add(index)
        if len(indices) == len(dataset):
            break
    own = (_own_sample(dataset, index) for index in indices)
    return {image for d, i in own if not _is_corrupt(d, i) for image in _images_of(d, i)}


def _images_of(dataset: Any, index: int) -> list[str]:  # noqa: ANN401 - any data set
    """Return the ids of a sample's images; a conversation has any number."""
    if hasattr(dataset, "images_of"):
        images: list[str] = dataset.images_of(index)
        return images
    return [str(dataset.get_data_info(index)["image_id"])]


def _own_sample(dataset: Any, index: int) -> tuple[Any, int]:  # noqa: ANN401 - mmengine's wrappers
    """Follow mmengine's wrappers to the data set that has a sample, and its index there."""
    while hasattr(dataset, "_get_ori_dataset_idx"):
        place = dataset._get_ori_dataset_idx(index)
        number, index = place if isinstance(place, tuple) else (None, place)
        dataset = dataset.dataset if number is None else dataset.datasets[number]
    return dataset, index


def _is_corrupt(dataset: Any, index: int) -> bool:  # noqa: ANN401 - any data set
    return hasattr(dataset, "is_corrupt") and dataset.is_corrupt(index)
