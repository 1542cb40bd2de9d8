"""Folders that transformers wrote: what they say of a model, and the model itself.

A folder holds `config.json` (the architecture), the file of its image processor (what the model
takes, see `tove_plugins.image_processor`) and the weights. The readers here need neither
transformers nor torch, so that a resolve function stays light; the two builders import them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tove_plugins import ImageSpec
from tove_plugins.image_processor import read_image_processor
from tove_plugins.specs import Interpolation

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "as_size",
    "load_model",
    "patch_grid",
    "random_model",
    "read_config",
    "read_image",
]

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


def read_config(folder: Path, model_types: Collection[str] = ()) -> dict[str, Any]:
    """Read a folder's config.json.

    Args:
        folder: What `save_pretrained` wrote.
        model_types: The `model_type`s that will do; any if empty.

    Raises:
        ValueError: There is no config.json, or it is of another model type.
    """
    config = _read_json(folder / CONFIG)
    if config is None:
        raise ValueError(
            f"{folder} holds no {CONFIG}; point `weights` at the folder that save_pretrained() of "
            "transformers wrote, or at a 'hub:ORG/NAME' repository of such."
        )
    found = config.get("model_type")
    if model_types and found not in model_types:
        raise ValueError(
            f"{folder / CONFIG} is of model_type {found!r}, and this expert takes "
            f"{' or '.join(map(repr, sorted(model_types)))}; choose other weights or another "
            "expert ('transformers_backbone' takes any backbone)."
        )
    return config


def read_image(
    folder: Path,
    fallback: ImageSpec | None = None,
    size: tuple[int, int] | None = None,
    interpolation: Interpolation = "bicubic",
) -> ImageSpec:
    """Read from the file of a folder's image processor what its model takes.

    The size is that of the processor's last step: the crop where it crops, else the shorter edge,
    made square, for every expert sees the whole of the one shared view.

    Args:
        folder: What `save_pretrained` wrote.
        fallback: Stands in for what the file does not say, and for the whole file; without it
            that is an error, for a guessed mean and std would pass without a word.
        size: (height, width) in place of the processor's.
        interpolation: What the family's image processors do where the file does not say.

    Raises:
        ValueError: The file is missing or says too little.
    """
    found = read_image_processor(folder)
    if found is None:
        if fallback is None:
            raise ValueError(
                f"{folder} holds no {PREPROCESSOR}, so its mean, std and image size are not known; "
                "copy the file from the model's repository, or write it with save_pretrained() of "
                "the image processor."
            )
        return replace(fallback, size=size or fallback.size, interpolation=interpolation)
    size = size or found.size or (fallback.size if fallback else None)
    mean = found.mean or (fallback.mean if fallback else None)
    std = found.std or (fallback.std if fallback else None)
    if size is None or mean is None or std is None:
        raise ValueError(
            f"{found.file} lacks the size, image_mean or image_std; give `image_size`, "
            "or add them to the file as the model's image processor writes them."
        )
    return ImageSpec(size, mean, std, found.value_range, found.interpolation or interpolation)


def as_size(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Turn the option `image_size`, one side or (height, width), into a pair; None stays.

    Raises:
        ValueError: It is neither.
    """
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(
            f"image_size is {image_size!r}; give one side or (height, width), in whole pixels."
        )
    return sides


def patch_grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Give the grid (rows, columns) of patches that tile an image.

    Raises:
        ValueError: A side does not divide by the patch; the rest would be cut off unseen.
    """
    if size[0] % patch or size[1] % patch:
        near = tuple(max(patch, round(side / patch) * patch) for side in size)
        raise ValueError(
            f"An image of {size[0]} x {size[1]} pixels does not divide into patches of {patch}; "
            f"give image_size={near}, for example."
        )
    return size[0] // patch, size[1] // patch


def load_model(
    class_name: str, folder: Path, *, may_miss: str | None = None, **settings: object
) -> nn.Module:
    """Load a model from a folder: float32, eval mode, safetensors where there are any.

    transformers draws weights that a checkpoint lacks at random and only logs it; here that is an
    error.

    Args:
        class_name: A class of transformers, or one of its Auto classes.
        folder: What `save_pretrained` wrote.
        may_miss: Weights whose names hold this may be missing from the file, because the class
            gives them a meaningful start (a norm of ones and zeros) or never runs them.
        settings: Entries of the model's config to override.

    Raises:
        ValueError: Weights are missing.
        OSError: The folder holds no weights file.
    """
    import torch
    import transformers

    model, report = getattr(transformers, class_name).from_pretrained(
        folder,
        local_files_only=True,
        dtype=torch.float32,
        use_safetensors=any(folder.glob("*.safetensors")),
        weights_only=True,
        output_loading_info=True,
        **settings,
    )
    missing = sorted(
        name for name in report["missing_keys"] if may_miss is None or may_miss not in name
    )
    if missing:
        raise ValueError(
            f"The weights in {folder} lack {len(missing)} of those that {type(model).__name__} "
            f"has ({', '.join(missing[:3])}, ...), which would stay random; they are of another "
            "model or cut short. Fetch them again or choose others."
        )
    return model


def random_model(class_name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a model with random weights, in eval mode; needs no network.

    Args:
        class_name: A class of transformers, or one of its Auto classes.
        config: What config.json would hold; `model_type` chooses the config class.
    """
    import transformers

    model_class = getattr(transformers, class_name)
    build = getattr(model_class, "from_config", model_class)
    return build(transformers.AutoConfig.for_model(**config)).eval()


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); fetch it again.") from error
    return content
