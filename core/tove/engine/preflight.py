"""Checks before any training: what a run of hours would stumble over is said in the first second.

Looked at: types in every part of the config, experts, weights, image size, data. Each problem is
one sentence that tells what, where and how to mend it.
"""

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope
from torch.utils.data import DataLoader

from tove import registry
from tove.backbones.clip.encoder import check_image_size
from tove.backbones.experts.licences import check_licences
from tove.backbones.experts.registration import expert_options
from tove.config import environment
from tove.config.data_sets import data_sets, fill_in
from tove.config.validation import check_arguments, check_known, check_model, is_whole
from tove.engine.planning import needed_slots, run_experts
from tove.errors import ConfigError, close_matches
from tove_plugins import ExpertBuildError, check_build, discover, resolve_resource

__all__ = [
    "check_config",
]

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "unlabelled_dataloader")
_NEEDED = ("data_root", "image_size", "model", "schedule", "seed", "stages", "test_dataloader")


def check_config(
    cfg: Config, amp: bool = False, checkpoint: Path | None = None, only: str | None = None
) -> None:
    """Check a config and fill in what its data sets and loaders leave open.

    Args:
        cfg: changed in place, see `fill_in`.
        amp: whether mixed precision is asked for.
        checkpoint: see `needed_slots`.
        only: see `needed_slots`.

    Raises:
        ConfigError: or an error of `tove_plugins`; the first problem found.
    """
    environment.check_environment()
    _check_keys(cfg)
    if cfg.get("custom_imports"):
        _import_modules(cfg.custom_imports)
    init_default_scope(registry.SCOPE)
    if amp and not torch.cuda.is_available():
        raise ConfigError("--amp needs an accelerator, and there is none here; leave it out.")
    fill_in(cfg)
    for entry in cfg.stages:
        _check_type(registry.STAGES, entry, "stages")
    _check_model(cfg, checkpoint, only)
    for loader in _LOADERS:
        if loader in cfg:
            _check_loader(cfg[loader], loader)
    for loader, dataset in data_sets(cfg):
        _check_part(registry.DATASETS, dataset, f"{loader}.dataset")
    metrics = cfg.get("test_evaluator", [])
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        _check_part(registry.METRICS, metric, "test_evaluator")


def _check_keys(cfg: Config) -> None:
    missing = [key for key in _NEEDED if key not in cfg]
    if missing:
        raise ConfigError(
            f"The config {cfg.filename} lacks the setting '{missing[0]}'; "
            "configs/tiny/tove-tiny_scenes.py shows a complete one."
        )
    for key in ("image_size", "batch_size"):
        value = cfg.get(key, 1)
        if not is_whole(value, 1):
            raise ConfigError(f"{key} is {value!r}; give a positive whole number.")
    if not is_whole(cfg.seed):
        raise ConfigError(f"seed is {cfg.seed!r}; give a whole number, 0 or more.")
    names = [entry.get("name") for entry in cfg.stages]
    if None in names or len(set(names)) < len(names):
        raise ConfigError(
            f"Each entry of `stages` needs a name of its own, but they are {names}; it is also the "
            "name of the stage's folder."
        )


def _check_loader(loader: Mapping[str, Any], where: str) -> None:
    """Check what a loader's dict holds: torch's arguments and those that mmengine adds."""
    check_known(loader, [*signature(DataLoader).parameters, "num_batch_per_epoch"], where)
    for key, least in (("batch_size", 1), ("num_workers", 0)):
        value = loader.get(key, least)
        if not is_whole(value, least):
            raise ConfigError(f"{where}.{key} is {value!r}; give a whole number, {least} or more.")
    sampler = loader.get("sampler")
    if isinstance(sampler, Mapping):
        _check_type(registry.DATA_SAMPLERS, sampler, f"{where}.sampler")
        kind = registry.DATA_SAMPLERS.get(sampler["type"])
        check_arguments(kind, sampler, f"{where}.sampler", filled=("dataset", "seed"))
    if "collate_fn" in loader:
        _check_type(registry.FUNCTIONS, loader["collate_fn"], f"{where}.collate_fn")


def _import_modules(custom_imports: Mapping[str, Any]) -> None:
    from mmengine.utils import import_modules_from_strings

    try:
        import_modules_from_strings(**custom_imports)
    except ImportError as error:
        raise ConfigError(
            f"custom_imports of the config cannot be imported ({error}); correct the module's name "
            "or put its folder on PYTHONPATH."
        ) from error


def _check_type(kind: Registry, entry: Mapping[str, Any], where: str) -> None:
    """Look a `type` up as building it would."""
    name = entry.get("type")
    if name is None:
        raise ConfigError(f"{where} of the config has no 'type': {dict(entry)}.")
    if isinstance(name, str) and kind.get(name) is None:
        known = set(kind.module_dict) | set(kind.parent.module_dict if kind.parent else ())
        raise ConfigError(
            f"{where}.type is '{name}', which is unknown. {close_matches(name, known)}"
        )


def _check_part(kind: Registry, entry: Mapping[str, Any], where: str) -> None:
    """Look a `type` up and hold the arguments beside it against what it takes."""
    _check_type(kind, entry, where)
    found = entry["type"] if callable(entry["type"]) else kind.get(entry["type"])
    check_model(found, entry, where)


def _check_model(cfg: Config, checkpoint: Path | None, only: str | None) -> None:
    model = cfg.model
    _check_part(registry.MODELS, model, "model")
    _check_part(registry.ENCODERS, model.encoder, "model.encoder")
    _check_part(registry.LANGUAGE_MODELS, model.language, "model.language")
    generate = registry.LANGUAGE_MODELS.get(model.language["type"]).generate
    given = ("self", "memory_BND", "prompts")
    check_arguments(generate, model.get("generation") or {}, "model.generation", given)
    if "merging" in cfg:
        check_known(cfg.merging, ("model", "schedule"), "merging")
        _check_part(registry.MODELS, cfg.merging.model, "merging.model")
    for part in ("encoder", "language"):
        _check_weights(f"model.{part}.pretrained", model[part].get("pretrained"))
    _check_weights("model.init_from", model.get("init_from"))
    _check_image_size(model.encoder)
    needed = needed_slots(cfg, checkpoint, only)
    runs = {slot for slot, _ in run_experts(cfg, only)}
    for slot, expert in model.get("experts", {}).items():
        if slot in needed:
            _check_expert(slot, expert, cfg if slot in runs else Config())


def _check_weights(where: str, source: str | None) -> None:
    """Check a file or folder; a hub id is left to the hub's client."""
    if source is None or not source.startswith(("pkg:", "/", ".", "~")):
        return
    try:
        path = resolve_resource(source)
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not path.exists():
        raise ConfigError(
            f"{where} is '{source}', but there is nothing at {path}; put the weights there or "
            f"correct {where}."
        )


def _check_expert(slot: str, expert: Mapping[str, Any], policy: Config) -> None:
    """Find the expert and its weights, and bind its options, without building it.

    The licence comes first: what the policy's `hub` refuses is not fetched.
    """
    name = expert.get("type")
    if not isinstance(name, str):
        raise ConfigError(f"model.experts.{slot}.type must be the name of an expert, not {name!r}.")
    if name in registry.EXPERTS.module_dict and name not in discover().experts:
        return  # research code, registered through custom_imports
    _check_placement(f"model.experts.{slot}", expert)
    try:
        check_licences(policy, [(slot, expert)])
        check_build(name, **expert_options(expert))
    except (ExpertBuildError, FileNotFoundError) as error:
        raise ExpertBuildError(f"model.experts.{slot}: {error}") from error


def _check_placement(where: str, expert: Mapping[str, Any]) -> None:
    """Check that there is such a dtype, and that the device can be used here."""
    dtype, device = expert.get("dtype"), expert.get("device")
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ConfigError(f"{where}.dtype is {dtype!r}; give float32, bfloat16 or float16.")
    if device is not None:
        if str(device).startswith("meta"):
            raise ConfigError(
                f"{where}.device is {device!r}, which computes nothing; leave it out."
            )
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{where}.device is {device!r}, which cannot be used here: {reason} Leave it out "
                "to have the expert where the model is."
            ) from error


def _check_image_size(encoder: Mapping[str, Any]) -> None:
    """Check that patches tile the image, where the encoder's folder is at hand."""
    size, source = encoder.get("image_size"), str(encoder.get("pretrained", ""))
    if size is None or not source.startswith(("pkg:", "/", ".", "~")):
        return
    config = resolve_resource(source) / "config.json"
    if not config.is_file():
        return
    settings = json.loads(config.read_text())
    patch = settings.get("vision_config", settings).get("patch_size")
    if patch:
        check_image_size(size, patch, source)
