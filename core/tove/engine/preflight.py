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
from mmengine.registry import Registry, init_default_scope
from torch.utils.data import DataLoader

from tove import registry
from tove.backbones.experts.licences import check_licences
from tove.backbones.experts.registration import expert_options, expert_spec
from tove.backbones.feature_cache.card import register_card
from tove.backbones.vit import check_image_size
from tove.config import environment
from tove.config.data_sets import check_samplers, data_sets, fill_in, loaders_of
from tove.config.keys import check_names, check_settings
from tove.config.overlay import plain_settings
from tove.config.upgrade import upgraded_model, upgraded_stages
from tove.config.validation import (
    Range,
    check_arguments,
    check_known,
    check_model,
    check_stage_names,
    check_value,
    look_up,
)
from tove.data.annotations import read_json
from tove.engine.method_packages import import_named_methods
from tove.engine.planning import needed_slots, run_experts
from tove.errors import ConfigError
from tove.modules.token_norm import TokenNorm, make_token_norm
from tove_plugins import (
    ExpertBuildError,
    check_build,
    discover,
    resolve_resource,
    weights_problem,
)

__all__ = ["check_config", "check_placement"]

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
    _check_keys(cfg)
    if cfg.get("custom_imports"):
        _import_modules(cfg.custom_imports)
    import_named_methods(cfg)
    init_default_scope(registry.SCOPE)
    if amp and not torch.cuda.is_available() and _amp_dtype(cfg) != "bfloat16":
        raise ConfigError(
            "--amp in float16 needs an accelerator, and there is none here; set "
            "schedule.amp_dtype=bfloat16, or leave --amp out."
        )
    _check_part(registry.MODELS, cfg.model, "model")
    _know_stored_experts(cfg)
    fill_in(cfg)
    check_samplers(cfg)
    for entry in cfg.stages:
        _check_part(registry.STAGES, entry, f"stages.{entry['name']}")
    _check_model(cfg, needed_slots(cfg, checkpoint, only) - set(without), only)
    for loader in loaders_of(cfg):
        _check_loader(cfg[loader], loader)
    for loader, dataset in data_sets(cfg):
        _check_part(registry.DATASETS, dataset, f"{loader}.dataset")
        _check_still(cfg, loader, dataset)
    metrics = cfg.get("test_evaluator", [])
    for metric in metrics if isinstance(metrics, list) else [metrics]:
        _check_part(registry.METRICS, metric, "test_evaluator")


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
        register_card(Path(settings["dir"]).expanduser())


def _check_still(cfg: Config, loader: str, dataset: Mapping[str, Any]) -> None:
    """Refuse random views where frozen tokens are kept by image: they would be another view's."""
    cache = cfg.model.get("token_cache") or {}
    kinds = [str(step.get("type")) for step in dataset.get("pipeline", ()) or ()]
    random = [kind for kind in kinds if "random" in kind.lower()]
    if random and cache.get("max_gb") is not None:
        raise ConfigError(
            f"{loader}.dataset has {random[0]} in its pipeline, so an image is another view each "
            "time, while model.token_cache.max_gb keeps one view's tokens an image; take one out."
        )
    if random and cache.get("dir") and cache.get("mode", "read-through") != "off":
        raise ConfigError(
            f"{loader}.dataset has {random[0]} in its pipeline, so no view comes twice and the "
            "token cache would grow without end; take the step out, or set "
            "model.token_cache.mode='off'."
        )


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


def _check_part(kind: Registry, entry: Mapping[str, Any], where: str) -> None:
    """Look a `type` up and hold the arguments beside it against what it takes."""
    check_value(entry, dict, where)
    check_model(look_up(kind, entry.get("type"), where), entry, where)


def _check_model(cfg: Config, needed: Collection[str], only: str | None) -> None:
    """Check the model and whatever of it has a registry of its own: encoder, language, experts."""
    model = cfg.model
    parts = {"encoder": registry.ENCODERS, "language": registry.LANGUAGE_MODELS}
    for name, kind in parts.items():
        if isinstance(model.get(name), Mapping):
            _check_part(kind, model[name], f"model.{name}")
    if model.get("generation") and isinstance(model.get("language"), Mapping):
        generate = registry.LANGUAGE_MODELS.get(model.language["type"]).generate
        given = list(signature(generate).parameters)[:3]  # self, vision tokens, samples
        check_arguments(generate, model.generation, "model.generation", given)
    if "merging" in cfg:
        check_known(cfg.merging, ("model", "schedule"), "merging")
        check_value(cfg.merging.get("schedule", {}), dict, "merging.schedule")
        _check_part(registry.MODELS, cfg.merging.get("model"), "merging.model")
    _check_weights("model", model)
    for entry in cfg.stages:
        _check_weights(f"stages.{entry['name']}.model", entry.get("model") or {})
    if isinstance(model.get("encoder"), Mapping):
        _check_image_size(model.encoder)
    runs = {slot for slot, _ in run_experts(cfg, only)}
    for slot, expert in model.get("experts", {}).items():
        if slot in needed:
            _check_expert(slot, expert, cfg if slot in runs else Config())
            _check_token_norm(f"model.experts.{slot}", expert, model)


def _check_weights(where: str, model: Mapping[str, Any]) -> None:
    """Look at the heads of the files that a model starts from; a hub id is left to its client."""
    named = {"init_from": model.get("init_from")}
    for part in ("encoder", "language"):
        if isinstance(model.get(part), Mapping):
            named[f"{part}.pretrained"] = model[part].get("pretrained")
    for name, source in named.items():
        if isinstance(source, str):
            _check_source(f"{where}.{name}", source)


def _check_source(where: str, source: str) -> None:
    try:
        path = resolve_resource(source)
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not path.exists() and source.startswith(("pkg:", "/", ".", "~")):
        raise ConfigError(
            f"{where} is '{source}', but there is nothing at {path}; put the weights there or "
            f"correct {where}."
        )
    if problem := weights_problem(path):
        raise ConfigError(f"{where}: {problem}")


def _check_expert(slot: str, expert: Mapping[str, Any], policy: Config) -> None:
    """Find the expert and its weights, and bind its options, without building it.

    The licence comes first: what the policy's `hub` refuses is not fetched.
    """
    name = expert.get("type")
    if not isinstance(name, str):
        raise ConfigError(f"model.experts.{slot}.type must be the name of an expert, not {name!r}.")
    if name in registry.EXPERTS.module_dict and name not in discover().experts:
        return  # research code, registered through custom_imports
    check_placement(f"model.experts.{slot}", expert)
    try:
        check_licences(policy, [(slot, expert)])
        check_build(name, **expert_options(expert))
    except (ExpertBuildError, FileNotFoundError) as error:
        raise ExpertBuildError(f"model.experts.{slot}: {error}") from error


def _check_token_norm(where: str, expert: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    kind = expert.get("token_norm")
    check_value(kind, TokenNorm | None, f"{where}.token_norm")
    kind = kind or model.get("token_norm")
    try:
        if kind:
            make_token_norm(kind, expert_spec(expert).spec.tokens.width)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_placement(where: str, settings: Mapping[str, Any]) -> None:
    """Check that there is such a `dtype`, and that the `device` can be used here.

    Raises:
        ConfigError: there is not, or it cannot.
    """
    dtype, device = settings.get("dtype"), settings.get("device")
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
                f"{where}.device is {device!r}, which cannot be used here: {reason} Leave it out."
            ) from error


def _check_image_size(encoder: Mapping[str, Any]) -> None:
    """Check that patches tile the image, where the encoder's folder is at hand."""
    size, source = encoder.get("image_size"), str(encoder.get("pretrained", ""))
    if size is None or not source.startswith(("pkg:", "/", ".", "~")):
        return
    config = resolve_resource(source) / "config.json"
    if not config.is_file():
        return
    settings = read_json(str(config), "an encoder's config; fetch it again", hint=dict)
    patch = settings.get("vision_config", settings).get("patch_size")
    if patch:
        check_image_size(size, patch, source)
