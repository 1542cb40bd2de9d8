"""Read the configs that mmdet and mmpretrain ship: the model's part, and the image that it takes.

The libraries read images with OpenCV, so the channels of their preprocessors are in blue-green-red
order until `bgr_to_rgb` (mmdet) or `to_rgb` (mmpretrain) turns them. Our images are RGB: a model
without that switch gets its channels flipped, and its mean and std are told in RGB order.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tove_plugins import ImageSpec
from tove_plugins.specs import Interpolation

if TYPE_CHECKING:
    from mmengine.config import Config, ConfigDict

__all__ = ["expects_bgr", "find_config", "image_spec", "image_step", "read_config"]

_TO_RGB = ("bgr_to_rgb", "rgb_to_bgr", "to_rgb")  # each flips what OpenCV read


def find_config(library: str, name: str) -> Path:
    """Find a config file by path, or by its place or name among those that a library ships.

    Args:
        library: "mmdet" say; it is located, not imported.
        name: A path; or as in "rtmdet/rtmdet_tiny_8xb32-300e_coco.py", folder and ".py" optional.

    Raises:
        ValueError: There is none, or the name alone names several.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    found = importlib.util.find_spec(library)
    roots = list(found.submodule_search_locations or ()) if found else []
    shipped = Path(roots[0], ".mim", "configs") if roots else Path()
    wanted = name if name.endswith(".py") else f"{name}.py"
    if (shipped / wanted).is_file():
        return shipped / wanted
    files = {file.relative_to(shipped).as_posix(): file for file in shipped.rglob("*.py")}
    matches = [place for place in files if place.rpartition("/")[2] == wanted]
    if len(matches) == 1:
        return files[matches[0]]
    near = matches or difflib.get_close_matches(wanted, files, n=3, cutoff=0.4)
    raise ValueError(
        f"config={name!r} is no file, and {library} ships "
        f"{'several of that name' if matches else 'none of that name'} in {shipped}; give a path, "
        f"or one of {', '.join(map(repr, sorted(near))) or 'the files there'}."
    )


def read_config(path: Path, overrides: Mapping[str, Any]) -> Config:
    """Read a config with the model's part changed, and with nothing in it that would be fetched.

    Args:
        path: The file; like every OpenMMLab config it is Python that is run.
        overrides: Dotted keys under `model`, as in {"backbone.depth": 18}; a dictionary is merged
            into the config's unless it has the entry "_delete_": True, as mmengine has it.

    Raises:
        ValueError: It has no `model`.
    """
    from mmengine.config import Config

    cfg = Config.fromfile(path)
    if "model" not in cfg:
        raise ValueError(f"The config {path} has no `model`; give that of a model.")
    # mmengine takes keys such as "_delete_" out of the dictionaries that it merges.
    changes = deepcopy(dict(overrides))
    cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    _forget_pretrained(cfg.model)
    return cfg


def _forget_pretrained(part: object) -> None:
    """Take out every instruction to fetch weights; those of the expert are loaded by us."""
    if isinstance(part, list | tuple):
        for item in part:
            _forget_pretrained(item)
    if not isinstance(part, dict):
        return
    if _fetches(part.get("init_cfg")):
        part["init_cfg"] = None
    if "pretrained" in part:
        part["pretrained"] = None
    for value in part.values():
        _forget_pretrained(value)


def _fetches(init_cfg: object) -> bool:
    if isinstance(init_cfg, list | tuple):
        return any(map(_fetches, init_cfg))
    return isinstance(init_cfg, dict) and "checkpoint" in init_cfg


def expects_bgr(preprocessor: Mapping[str, Any]) -> bool:
    """Tell whether the model is fed blue-green-red channels."""
    return not any(preprocessor.get(key) for key in _TO_RGB)


def image_spec(
    preprocessor: Mapping[str, Any], size: tuple[int, int], interpolation: Interpolation
) -> ImageSpec:
    """Give a library's data preprocessor as the image that we hand over, in RGB order, 0 to 255.

    Args:
        preprocessor: Its config; without `mean` it leaves pixels as they are.
        size: (height, width) in pixels.
        interpolation: How the library resizes.
    """
    mean = tuple(map(float, preprocessor.get("mean") or (0, 0, 0)))
    std = tuple(map(float, preprocessor.get("std") or (1, 1, 1)))
    if expects_bgr(preprocessor):
        mean, std = mean[::-1], std[::-1]
    return ImageSpec(size, mean, std, (0.0, 255.0), interpolation)  # type: ignore[arg-type]


def image_step(pipeline: list[ConfigDict], *keys: str) -> Any:  # noqa: ANN401
    """Give the last value that a test pipeline's steps set under one of the keys, or None."""
    values = [step[key] for step in pipeline for key in keys if step.get(key) is not None]
    return values[-1] if values else None
