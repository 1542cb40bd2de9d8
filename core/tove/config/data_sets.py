"""The data sets and loaders of a config."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config

from tove.errors import ConfigError

__all__ = ["data_sets", "fill_in", "loaders_of"]

_SUFFIX = "_dataloader"


def loaders_of(cfg: Config) -> list[str]:
    """Return the names of a config's loaders: whatever ends in `_dataloader` is one."""
    return [name for name in cfg if name.endswith(_SUFFIX)]


def data_sets(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yield every data set's config with its loader's name, those inside wrappers too."""
    for loader in loaders_of(cfg):
        if "dataset" not in cfg[loader]:
            raise ConfigError(f"{loader} of the config has no 'dataset'; say what it loads.")
        stack = [cfg[loader].dataset]
        while stack:
            dataset = stack.pop()
            yield loader, dataset
            stack.extend(_wrapped(dataset))


def _wrapped(dataset: Mapping[str, Any]) -> list[Any]:
    """Give the data sets inside a wrapper: ConcatDataset's `datasets`, the others' `dataset`."""
    return [*dataset.get("datasets", []), *([dataset["dataset"]] if "dataset" in dataset else [])]


def fill_in(cfg: Config) -> None:
    """Give data root, image size, batch size and pinning to what names none."""
    for _, dataset in data_sets(cfg):
        if not _wrapped(dataset):
            dataset.setdefault("data_root", cfg.data_root)
            dataset.setdefault("image_size", cfg.image_size)
    for loader in loaders_of(cfg):
        if "batch_size" in cfg:
            cfg[loader].setdefault("batch_size", cfg.batch_size)
        # Pinned memory is what a copy to the device needs to be waited for by none.
        cfg[loader].setdefault("pin_memory", torch.cuda.is_available())
