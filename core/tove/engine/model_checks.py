"""Checks of a model's settings, and of those that stages lay over them, before anything is built.

Looked at is whatever has a registry of its own (encoder, language model, experts), the heads of
weights files, and what is given to `generate`.
"""

from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import Registry

from tove import registry
from tove.backbones.experts.licences import check_licences
from tove.backbones.experts.registration import expert_options, expert_spec
from tove.backbones.preprocess import Resize
from tove.backbones.vit import check_image_size
from tove.config.validation import (
    check_arguments,
    check_known,
    check_model,
    check_value,
    look_up,
)
from tove.data.annotations import read_json
from tove.engine.planning import method_settings, run_experts, run_overlay, stage_kind
from tove.errors import ConfigError
from tove.modules.token_norm import TokenNorm, make_token_norm
from tove_plugins import (
    ExpertBuildError,
    check_build,
    discover,
    resolve_resource,
    weights_problem,
)

__all__ = ["check_models", "check_part", "check_placement"]

Settings = Mapping[str, Any]


def check_part(kind: Registry, entry: Settings, where: str) -> None:
    """Look a `type` up and hold the arguments beside it against what it takes."""
    check_value(entry, dict, where)
    check_model(look_up(kind, entry.get("type"), where), entry, where)


def check_models(cfg: Config, needed: Collection[str], only: str | None, stages: bool) -> None:
    """Check the parts of the config's model and of what its stages make of it.

    Args:
        cfg: whose `model` and `stages` have been held against what takes them.
        needed: slots of `cfg.model` whose experts have to be there.
        only: the one stage that is to run.
        stages: whether stages are going to run, whose own settings then count.

    Raises:
        ConfigError: or an error of `tove_plugins`; the first problem found.
    """
    _check_parts(cfg.model, cfg.model, "model")
    if "merging" in cfg:
        check_known(cfg.merging, ("model", "schedule"), "merging")
        check_value(cfg.merging.get("schedule", {}), dict, "merging.schedule")
        check_part(registry.MODELS, cfg.merging.get("model"), "merging.model")
    laid_over = []
    for entry in cfg.stages if stages else ():
        over, lays = entry.get("model"), getattr(stage_kind(entry), "overlays_model", False)
        if over and lays and only in (None, entry["name"]):
            where = f"stages.{entry['name']}.model"
            settings = method_settings(cfg.model, run_overlay(cfg, entry["name"]))
            check_part(registry.MODELS, settings, where)
            _check_parts(settings, over, where)
            laid_over.append((settings, (over.get("experts") or {}).keys(), where))
    _check_cached_slots(cfg)
    runs = {slot for slot, _ in run_experts(cfg, only)}
    experts = cfg.model.get("experts", {})
    for slot in experts:
        if slot in needed:
            _check_expert(cfg.model, slot, "model", cfg if slot in runs else Config())
    for settings, slots, where in laid_over:
        for slot in slots - (experts.keys() - needed):
            _check_expert(settings, slot, where, cfg)


def _check_cached_slots(cfg: Config) -> None:
    """Refuse a token cache's settings of slots that neither the model nor a stage's has."""
    models = [cfg.model, *(entry.get("model") or {} for entry in cfg.stages)]
    slots = {"clip", *(slot for model in models for slot in model.get("experts") or ())}
    own = (cfg.model.get("token_cache") or {}).get("experts") or {}
    check_known(own, slots, "model.token_cache.experts")


def _check_parts(settings: Settings, own: Settings, where: str) -> None:
    """Check the parts of a model that a place in the config has a say in.

    Args:
        settings: of the whole model.
        own: what that place says of it.
        where: the place.
    """
    for name, kind in (("encoder", registry.ENCODERS), ("language", registry.LANGUAGE_MODELS)):
        if name in own and isinstance(settings.get(name), Mapping):
            check_part(kind, settings[name], f"{where}.{name}")
    language = settings.get("language")
    wanted = own.get("generation") and settings.get("generation")
    if wanted and isinstance(language, Mapping):
        generate = registry.LANGUAGE_MODELS.get(language["type"]).generate
        given = list(signature(generate).parameters)[:3]  # self, vision tokens, samples
        check_arguments(generate, wanted, f"{where}.generation", given)
    _check_weights(where, own)
    if "encoder" in own and isinstance(settings.get("encoder"), Mapping):
        _check_image_size(settings["encoder"])


def _check_weights(where: str, model: Settings) -> None:
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


def _check_expert(model: Settings, slot: str, place: str, policy: Config) -> None:
    """Find the expert of a slot and its weights, and bind its options, without building it.

    The licence comes first: what the policy's `hub` refuses is not fetched.
    """
    expert, where = model["experts"][slot], f"{place}.experts.{slot}"
    check_value(expert, dict, where)
    name = expert.get("type")
    if not isinstance(name, str):
        raise ConfigError(f"{where}.type must be the name of an expert, not {name!r}.")
    if name in registry.EXPERTS.module_dict and name not in discover().experts:
        return  # research code, registered through custom_imports
    check_placement(where, expert)
    try:
        check_licences(policy, [(slot, expert)])
        check_build(name, **expert_options(expert))
    except (ExpertBuildError, FileNotFoundError) as error:
        raise ExpertBuildError(f"{where}: {error}") from error
    _check_token_norm(where, expert, model)


def _check_token_norm(where: str, expert: Settings, model: Settings) -> None:
    kind = expert.get("token_norm")
    check_value(kind, TokenNorm | None, f"{where}.token_norm")
    kind = kind or model.get("token_norm")
    try:
        if kind:
            make_token_norm(kind, expert_spec(expert).spec.tokens.width)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_placement(where: str, settings: Settings) -> None:
    """Check that there is such a `dtype` and `resize`, and that the `device` can be used here.

    Raises:
        ConfigError: there is not, or it cannot.
    """
    check_value(settings.get("resize", "float32"), Resize, f"{where}.resize")
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


def _check_image_size(encoder: Settings) -> None:
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
