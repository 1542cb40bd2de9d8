"""Checks before any training: what a run of hours would stumble over is said in the first second.

Looked at: types in every part of the config, experts, weights, image size, data. Each problem is
one sentence that tells what, where and how to mend it.
"""

import logging
from collections.abc import Collection, Mapping
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from tove import registry
from tove.backbones.feature_cache.card import register_card
from tove.backbones.feature_cache.remote import local_folder
from tove.config import environment
from tove.config.data_sets import check_evaluation, data_sets, fill_in, loaders_of
from tove.config.keys import check_names, check_settings
from tove.config.overlay import plain_settings
from tove.config.upgrade import upgraded_model, upgraded_stages
from tove.config.validation import (
    Range,
    check_arguments,
    check_known,
    check_stage_names,
    check_value,
    look_up,
)
from tove.engine.method_packages import import_named_methods
from tove.engine.model_checks import check_models, check_part
from tove.engine.planning import needed_slots
from tove.engine.provenance import packages_of
from tove.engine.runner_checks import check_runner
from tove.errors import ConfigError
from tove_plugins import ExpertNotAvailable

__all__ = ["check_config", "check_outline"]

_NEEDED = ("data_root", "image_size", "model", "seed", "stages", "test_dataloader")


def check_config(
    cfg: Config,
    amp: bool = False,
    checkpoint: Path | None = None,
    only: str | None = None,
    without: Collection[str] = (),
) -> None:
    """Check a config and fill in what its data sets and loaders leave open.

    Args:
        cfg: changed in place, see `fill_in`.
        amp: whether mixed precision is asked for.
        checkpoint: see `needed_slots`.
        only: see `needed_slots`.
        without: slots whose experts need not be there.

    Raises:
        ConfigError: or an error of `tove_plugins`; the first problem found.
    """
    environment.check_environment()
    check_outline(cfg)
    if amp and not torch.cuda.is_available() and _amp_dtype(cfg) != "bfloat16":
        raise ConfigError(
            "--amp in float16 needs an accelerator, and there is none here; set "
            "schedule.amp_dtype=bfloat16, or leave --amp out."
        )
    _know_stored_experts(cfg)
    fill_in(cfg)
    check_evaluation(cfg)
    check_runner(cfg)
    needed = needed_slots(cfg, checkpoint, only) - set(without)
    try:
        check_models(cfg, needed, only, stages=checkpoint is None or only is not None)
    except ExpertNotAvailable as error:
        raise ExpertNotAvailable(f"{error}{packages_of(checkpoint)}") from error
    for loader in loaders_of(cfg):
        _check_loader(cfg[loader], loader)
    for loader, dataset in data_sets(cfg):
        check_part(registry.DATASETS, dataset, f"{loader}.dataset")
    metrics = cfg.get("test_evaluator", [])
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        check_part(registry.METRICS, metric, "test_evaluator")


def check_outline(cfg: Config) -> None:
    """Check a config's own settings, its model and its stages' entries; import what it names.

    Args:
        cfg: changed in place where it is in the words of version 0.1.

    Raises:
        ConfigError: the first problem found.
    """
    _check_keys(cfg)
    if cfg.get("custom_imports"):
        _import_modules(cfg.custom_imports)
    import_named_methods(cfg)
    init_default_scope(registry.SCOPE)
    check_part(registry.MODELS, cfg.model, "model")
    for entry in cfg.stages:
        check_part(registry.STAGES, entry, f"stages.{entry['name']}")


def _amp_dtype(cfg: Config) -> str:
    own = cfg.get("optim_wrapper", {}).get("dtype")
    dtype: str = own or cfg.get("schedule", {}).get("amp_dtype", "float16")
    return dtype


def _upgrade(cfg: Config) -> None:
    """Say a config of version 0.1 in today's words, and that it was done."""
    model, stages = plain_settings(cfg.get("model", {})), plain_settings(cfg.get("stages", []))
    new_model, new_stages = upgraded_model(model), upgraded_stages(stages)
    if (new_model, new_stages) != (model, stages):
        cfg.model, cfg.stages = new_model, new_stages
        print_log(
            "The config is in the words of version 0.1 (TransferStage, arm), read as in "
            "UPGRADING.md.",
            logger="current",
            level=logging.WARNING,
        )


def _check_keys(cfg: Config) -> None:
    check_names(cfg)
    check_settings(cfg)
    for key in ("experts", "detached"):  # None is to leave it out
        if key in cfg.get("model", {}) and cfg.model[key] is None:
            del cfg.model[key]
    _upgrade(cfg)
    missing = [key for key in _NEEDED if key not in cfg]
    if missing:
        raise ConfigError(
            f"The config {cfg.filename} lacks the setting '{missing[0]}'; "
            "configs/tiny/tove-tiny_scenes.py shows a complete one."
        )
    check_stage_names([entry.get("name") for entry in cfg.stages])


def _know_stored_experts(cfg: Config) -> None:
    """Make experts known whose tokens are kept and whose packages are not here."""
    settings = cfg.model.get("token_cache") or {}
    if settings.get("dir") and settings.get("mode") == "read":
        register_card(local_folder(settings["dir"]))


def _check_loader(loader: Mapping[str, Any], where: str) -> None:
    """Check what a loader's dict holds: torch's arguments and those that mmengine adds."""
    check_known(loader, [*signature(DataLoader).parameters, "num_batch_per_epoch"], where)
    for key, least in (("batch_size", 1), ("num_workers", 0)):
        check_value(loader.get(key, least), Annotated[int, Range(least)], f"{where}.{key}")
    for key in ("sampler", "batch_sampler", "collate_fn"):
        check_value(loader.get(key), dict | None, f"{where}.{key}")
    sampler = loader.get("sampler")
    if sampler:
        kind = look_up(registry.DATA_SAMPLERS, sampler.get("type"), f"{where}.sampler")
        check_arguments(kind, sampler, f"{where}.sampler", filled=("dataset", "seed"))
    if loader.get("collate_fn"):
        look_up(registry.FUNCTIONS, loader["collate_fn"].get("type"), f"{where}.collate_fn")


def _import_modules(custom_imports: Mapping[str, Any]) -> None:
    from mmengine.utils import import_modules_from_strings

    try:
        import_modules_from_strings(**custom_imports)
    except ImportError as error:
        raise ConfigError(
            f"custom_imports of the config cannot be imported ({error}); correct the module's name "
            "or put its folder on PYTHONPATH."
        ) from error
    except KeyError as error:  # mmengine's, of a registry in which the name is taken
        raise ConfigError(
            f"custom_imports of the config cannot be imported ({error.args[0]}); give the class "
            "another name, or leave the package out that has it: TOVE_BLOCK_PLUGINS=NAME."
        ) from error
