"""Cells of a grid: a config, what is laid over it, and a seed. Each is an ordinary run.

The seed is that of the scenes, the initial weights and the order of the data alike. Runs on the
same scenes share a folder of images, runs of one seed the tokens of frozen networks on disk, which
thus run once for all of them.

    WORK/scenes/SCENES        one for each set of scenes
    WORK/tokens/seed-SEED     see `tove.backbones.feature_cache`
    WORK/cells/NAME           work folder of a run; NAME ends with the digest of its settings
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.backbones.experts.registration import expert_spec
from tove.config.keys import SETTINGS
from tove.config.overlay import flatten, merged_settings, plain_settings
from tove.engine.preflight import check_outline
from tove.errors import ConfigError
from tove.registry import STAGES
from tove_plugins import resolve_resource, sha256_of

__all__ = ["Cell", "make_cell"]

# What tells no two results apart: names, places, how much is printed.
_NO_RESULT = {"custom_imports", "hub", "log_level", "report", "table_metrics", "work_dir"}
_PLACES = (".data_root", "data_root")


@dataclass(frozen=True, slots=True)
class Cell:
    """A run of a grid.

    Attributes:
        name: of its folder and its record.
        seed: of everything.
        config: the file that it began with.
        over: what was laid over it, the seed and folders aside.
        cfg: its settings, plain.
        digest: of all that its results depend on: settings, weights, version.
        work: the folder of the grid.
    """

    name: str
    seed: int
    config: Path
    over: Mapping[str, Any]
    cfg: Mapping[str, Any]
    digest: str
    work: Path

    @property
    def folder(self) -> Path:
        """Its work folder."""
        return self.work / "cells" / self.name

    def __str__(self) -> str:
        stages = ", ".join(entry["name"] for entry in self.cfg["stages"])
        return f"{stages} (seed {self.seed})"


def make_cell(config: Path, over: Mapping[str, Any], seed: int, work: Path) -> Cell:
    """Lay settings, the seed and the grid's folders over a config.

    Args:
        config: of ordinary runs.
        over: settings; a list takes the place of the config's.
        seed: of the run.
        work: the grid's folder.

    Raises:
        ConfigError: the config cannot be read, or has no model or stages that could be run.
    """
    cfg = merged_settings(_settings(config), _seeded(plain_settings(over), seed))
    check_outline(Config(plain_settings({"seed": seed, **cfg}), filename=config))
    scenes = {key: value for key, value in (cfg.get("scenes") or {}).items() if key != "data_root"}
    digest = _digest({**cfg, "seed": seed, "scenes": {**scenes, "seed": seed} if scenes else None})
    cfg["seed"] = seed
    if scenes:
        scenes["seed"] = seed
        name = "-".join(f"{key}_{_named(value)}" for key, value in sorted(scenes.items()))
        cfg["data_root"] = str(work / "scenes" / name)
        cfg["scenes"] = {**scenes, "data_root": cfg["data_root"]}
    tokens = {"dir": str(work / "tokens" / f"seed-{seed}"), "mode": "read-through"}
    cfg["model"] = {
        **cfg["model"],
        "token_cache": {**(cfg["model"].get("token_cache") or {}), **tokens},
    }
    stages = "+".join(entry["name"] for entry in cfg["stages"])[:48]
    return Cell(f"{stages}-s{seed}-{digest[:10]}", seed, config, over, cfg, digest, work)


def _named(value: Any) -> str:  # noqa: ANN401 - any config value
    """Return what a folder's name says of a setting: a world is told by its digest."""
    if not isinstance(value, dict):
        return str(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _seeded(value: Any, seed: int) -> Any:  # noqa: ANN401 - any config value
    """Put the seed where settings ask for it."""
    if isinstance(value, dict):
        return {key: _seeded(inner, seed) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_seeded(inner, seed) for inner in value)
    return seed if value == "{seed}" else value


@cache
def _settings(config: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = plain_settings(Config.fromfile(config).to_dict())
    except Exception as error:  # a config is a program of the user's, and may raise anything
        raise ConfigError(
            f"The config {config} cannot be read ({type(error).__name__}: {error})."
        ) from error
    loaders = {name for name in read if name.endswith("_dataloader")}
    return {name: read[name] for name in read if name in SETTINGS | loaders | {"default_scope"}}


def _digest(cfg: Mapping[str, Any]) -> str:
    """Return the digest of what a run's results depend on, wherever it is run."""
    read = {key for entry in cfg["stages"] for key in STAGES.build(dict(entry)).depends_on}
    for_some = {key for key in cfg if key == "merging" or key.endswith("_dataloader")}
    left_out = _NO_RESULT | (for_some - read)
    flat = flatten({key: cfg[key] for key in sorted(cfg) if key not in left_out})
    told = {key: value for key, value in flat.items() if not key.endswith(_PLACES)}
    told |= {"version": metadata.version("tove_plugins"), "weights": _weights(cfg)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _weights(cfg: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of the frozen weights: files of packages, and what experts declare."""
    model = cfg["model"]
    files = {
        key: value
        for key, value in flatten(model).items()
        if isinstance(value, str) and value.startswith("pkg:")
    }
    found = {key: _file_digest(name) for key, name in files.items()}
    for slot, expert in (model.get("experts") or {}).items():
        weights = expert_spec(expert).spec.weights
        found[f"experts.{slot}"] = str(weights.sha256) if weights else ""
    return found


@cache
def _file_digest(name: str) -> str:
    path = Path(resolve_resource(name))
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return hashlib.sha256("".join(sha256_of(f) for f in files if f.is_file()).encode()).hexdigest()
