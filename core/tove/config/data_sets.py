"""The data sets and loaders of a config."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config

from tove.config.validation import accepted_arguments, check_value
from tove.errors import ConfigError
from tove.registry import DATA_SAMPLERS

__all__ = [
    "by_use",
    "check_evaluation",
    "data_sets",
    "fill_in",
    "is_wrapper",
    "loaders_by_split",
    "loaders_of",
    "most_views",
]

_SUFFIX = "_dataloader"
_BY_USE = ("test_dataloader", "val_dataloader", "train_dataloader")


def loaders_of(cfg: Config) -> list[str]:
    """Return the names of a config's loaders: whatever ends in `_dataloader` is one."""
    return [name for name in cfg if name.endswith(_SUFFIX)]


def loaders_by_split(cfg: Config) -> dict[str, set[str]]:
    """Return the loaders of "train", "val" and "test": those of these names, and stages' others."""
    found = {split: {f"{split}{_SUFFIX}"} for split in ("train", "val", "test")}
    for entry in cfg.get("stages", ()):
        data = entry.get("data") or {}
        for split in found.keys() & data:
            found[split].add(data[split])
    return found


def data_sets(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yield every data set's config with its loader's name, those inside wrappers too.

    Raises:
        ConfigError: a loader or data set is no dict.
    """
    for loader in loaders_of(cfg):
        check_value(cfg[loader], dict, loader)
        if "dataset" not in cfg[loader]:
            raise ConfigError(f"{loader} of the config has no 'dataset'; say what it loads.")
        stack = [cfg[loader]["dataset"]]
        while stack:
            dataset = stack.pop()
            check_value(dataset, dict, f"{loader}.dataset or one inside it")
            yield loader, dataset
            stack.extend(_wrapped(dataset, loader))


def most_views(cfg: Config) -> int:
    """Return how many views of each image a config's data sets have, each with its own tokens."""
    return max(int((entry.get("augment") or {}).get("views", 1)) for _, entry in data_sets(cfg))


def by_use(cfg: Config) -> list[tuple[str, Any]]:
    """Return the data sets that read samples with their loaders' names, those tested on first."""
    return sorted(
        ((loader, dataset) for loader, dataset in data_sets(cfg) if "image_size" in dataset),
        key=lambda pair: _BY_USE.index(pair[0]) if pair[0] in _BY_USE else len(_BY_USE),
    )


def _wrapped(dataset: Mapping[str, Any], loader: str) -> list[Any]:
    """Return the data sets inside a wrapper: ConcatDataset's `datasets`, others' `dataset`."""
    inside = dataset.get("datasets", [])
    check_value(inside, list[dict], f"{loader}.dataset.datasets")
    return [*inside, *([dataset["dataset"]] if "dataset" in dataset else [])]


def is_wrapper(dataset: Mapping[str, Any]) -> bool:
    """Tell whether a data set only hands on what others read."""
    return "dataset" in dataset or "datasets" in dataset


def fill_in(cfg: Config) -> None:
    """Give data root, image size, batch size and pinning to what names none."""
    for _, dataset in data_sets(cfg):
        if not is_wrapper(dataset):
            dataset.setdefault("data_root", cfg.data_root)
            dataset.setdefault("image_size", cfg.image_size)
    for loader in loaders_of(cfg):
        if "batch_size" in cfg:
            cfg[loader].setdefault("batch_size", cfg.batch_size)
        sampler = cfg[loader].get("sampler")
        kind = DATA_SAMPLERS.get(sampler["type"]) if _is_named(sampler) else None
        known = (kind is not None and accepted_arguments(kind)) or ()
        for key, least in (("batch_size", 1), ("num_workers", 0)):
            if key in known:
                sampler.setdefault(key, cfg[loader].get(key, least))
        # Pinned memory is what a copy to the device needs to be waited for by none.
        cfg[loader].setdefault("pin_memory", torch.cuda.is_available())


def _is_named(entry: Any) -> bool:  # noqa: ANN401
    return isinstance(entry, Mapping) and isinstance(entry.get("type"), str)


def check_evaluation(cfg: Config) -> None:
    """Refuse what would let an evaluation never end, or leave samples out of it.

    Raises:
        ConfigError: a loader that is evaluated on has a sampler without end, or `drop_last`.
    """
    chosen = loaders_by_split(cfg)
    for loader in loaders_of(cfg):
        settings = cfg[loader] if loader in chosen["val"] | chosen["test"] else {}
        if settings.get("drop_last"):
            raise ConfigError(
                f"{loader}.drop_last would leave the last samples out of the evaluation, without "
                "a word in its scores; take it out."
            )
        sampler = settings.get("sampler")
        kind = sampler.get("type") if isinstance(sampler, Mapping) else None
        found: Any = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
        if hasattr(found, "_infinite_indices"):
            raise ConfigError(
                f"{loader}.sampler is {found.__name__}, which never ends, so neither would the "
                "evaluation; give dict(type='DefaultSampler', shuffle=False)."
            )
