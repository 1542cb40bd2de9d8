"""What open_clip knows and writes of a model: architecture, published weights, folders, files.

A folder holds `open_clip_config.json` (the architecture and the image statistics) and the weights
of both towers. Of the weights only the vision tower's part is read.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from tove_experts.hf import as_size
from tove_plugins import ImageSpec, Weights

__all__ = [
    "CONFIG",
    "DEFAULT_MODEL",
    "Architecture",
    "load_vision",
    "published_image",
    "published_weights",
    "read_architecture",
    "read_folder_image",
]

DEFAULT_MODEL = "ViT-B-16"
CONFIG = "open_clip_config.json"
_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What open_clip says of a model.

    Args:
        name: For messages.
        embed_dim: Of the space that images and texts share.
        vision: Arguments of open_clip's vision config.
        quick_gelu: OpenAI's approximate GELU.
    """

    name: str
    embed_dim: int
    vision: Mapping[str, Any]
    quick_gelu: bool

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image that it was made for, in pixels."""
        size = as_size(self.vision.get("image_size", 224))
        assert size is not None  # there is a default
        return size


def read_architecture(model: str | None, tag: str | None, weights: Path | None) -> Architecture:
    """Read the architecture from a folder, or look it up in open_clip's list.

    Raises:
        ValueError: There is no such model or tag, or the folder is another model's or none's.
    """
    if weights is None or not weights.is_dir():
        name = model or DEFAULT_MODEL
        if weights is not None and tag is None:
            _check_one_activation(name)
        return _of_config(_listed_config(name), name, tag)
    config = _folder_config(weights)["model_cfg"]
    if model is not None:
        _check_same(config["vision_cfg"], _listed_config(model)["vision_cfg"], model, weights)
    return _of_config(config, model or str(weights), tag)


def _check_one_activation(model: str) -> None:
    """Refuse to guess a file's activation where published weights of the model differ in it."""
    quick = [tag for tag, cfg in _tags(model).items() if cfg.get("quick_gelu")]
    if quick and len(quick) < len(_tags(model)) and not _listed_config(model).get("quick_gelu"):
        raise ValueError(
            f"Weights of {model} were published with GELU and, {', '.join(quick)}, with QuickGELU; "
            f"a file does not tell which it has. Give model='{model}-quickgelu', or as `tag` one "
            "that was trained as yours."
        )


def published_weights(model: str, tag: str | None) -> Weights:
    """Say where published weights are.

    Raises:
        ValueError: There are none of that tag, several without one, or they are not on the hub.
    """
    tags = _tags(model)
    if tag is None and len(tags) != 1:
        raise ValueError(
            f"Which weights of {model}? open_clip knows these: {', '.join(tags) or 'none'}. Name "
            "one as `tag`, or give `weights`, a file or a folder."
        )
    tag = tag or next(iter(tags))
    cfg = _tag_config(model, tag)
    repository = cfg.get("hf_hub", "").strip("/")
    if not repository:
        raise ValueError(
            f"open_clip's weights {tag!r} of {model} are not on the hub; fetch {cfg.get('url')} "
            "and give the file as `weights`."
        )
    return Weights(source=f"hub:{repository}", trained_on=f"as the card of {repository} tells")


def published_image(model: str, tag: str | None, size: tuple[int, int]) -> ImageSpec:
    """Give the image that a model takes: with the statistics of the tag, or of all its tags.

    Raises:
        ValueError: The published weights differ in them, so that the tag is needed.
    """
    if tag is not None:
        return _image(_tag_config(model, tag), size)
    tags = _tags(model)
    found = {_image(cfg, size) for cfg in tags.values()} or {_image({}, size)}
    if len(found) > 1:
        raise ValueError(
            f"The published weights of {model} differ in their image statistics; say whose yours "
            f"have by `tag`: {', '.join(tags)}."
        )
    return found.pop()


def read_folder_image(folder: Path, size: tuple[int, int]) -> ImageSpec | None:
    """Give the image that a folder says its model takes; None if it says nothing."""
    cfg = _folder_config(folder).get("preprocess_cfg")
    return _image(cfg, size) if cfg else None


def load_vision(visual: nn.Module, weights: Path, name: str) -> None:
    """Load the vision tower's part of a checkpoint, strictly.

    Positions of another grid are interpolated as open_clip does.

    Args:
        visual: The tower; it is changed in place.
        weights: A weights file, or a folder that holds one.
        name: The model's, for messages.

    Raises:
        ValueError: There is none, or it is another tower's.
    """
    from open_clip.model import resize_pos_embed

    file = _weights_file(weights)
    state = _read_visual(file)
    resize_pos_embed(state, SimpleNamespace(visual=visual))
    try:
        visual.load_state_dict({n.removeprefix("visual."): t for n, t in state.items()})
    except RuntimeError as error:
        raise ValueError(
            f"{file} does not hold the vision tower of {name}: {str(error)[:500]}. Give the "
            "`model` that it was trained as."
        ) from error


def _listed_config(model: str) -> dict[str, Any]:
    """Look a model up in open_clip's list; never on the hub, as its own function would."""
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(model) if ":" not in model else None
    if config is None:
        close = difflib.get_close_matches(model, open_clip.list_models(), 3)
        hint = f" Close to it: {', '.join(close)}." if close else ""
        raise ValueError(
            f"open_clip has no model {model!r}.{hint} open_clip.list_models() names them; for "
            "weights of a hub repository give weights='hub:ORG/NAME'."
        )
    return config


def _folder_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    config: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if "model_cfg" not in config:
        raise ValueError(
            f"{file} tells no architecture; point `weights` at a folder that open_clip wrote, at "
            "'hub:ORG/NAME' of one, or at a weights file beside `model`."
        )
    return config


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], model: str, at: Path) -> None:
    """Compare what tells towers apart; published folders differ from the list in drop rates."""
    for key in ("timm_model_name", "layers", "width", "patch_size"):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"The weights folder {at} holds a tower with {key}={found.get(key)!r}, and "
                f"open_clip's {model!r} has {wanted.get(key)!r}; choose other weights, or for any "
                "folder type='open_clip' without `model`."
            )


def _of_config(config: Mapping[str, Any], name: str, tag: str | None) -> Architecture:
    from open_clip.model import CLIPVisionCfg

    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    try:
        CLIPVisionCfg(**vision)
    except TypeError as error:
        raise ValueError(
            f"open_clip does not take the vision config of {name}: {error}. Its version may be "
            "older than the folder."
        ) from error
    # open_clip only warns where weights were trained with it and the listed model lacks it.
    quick_gelu = bool(config.get("quick_gelu"))
    if tag is not None:
        quick_gelu |= bool(_tag_config(name, tag).get("quick_gelu"))
    return Architecture(name, config["embed_dim"], vision, quick_gelu)


def _tags(model: str) -> dict[str, dict[str, Any]]:
    """Give what open_clip knows of a model's published weights, by tag."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    return {tag: open_clip.get_pretrained_cfg(model, tag) for tag in tags}


def _tag_config(model: str, tag: str) -> dict[str, Any]:
    tags = _tags(model)
    if tag not in tags:
        raise ValueError(
            f"open_clip knows no weights {tag!r} of {model}; it knows {', '.join(tags) or 'none'}."
        )
    return tags[tag]


def _image(cfg: Mapping[str, Any], size: tuple[int, int]) -> ImageSpec:
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean = cfg.get("mean") or OPENAI_DATASET_MEAN
    std = cfg.get("std") or OPENAI_DATASET_STD
    return ImageSpec(
        size=size,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        interpolation="bilinear" if cfg.get("interpolation") == "bilinear" else "bicubic",
    )


def _weights_file(weights: Path) -> Path:
    if weights.is_file():
        return weights
    found = [weights / name for name in _FILES if (weights / name).is_file()]
    if not found:
        raise ValueError(f"{weights} holds none of {', '.join(_FILES)}; name the file itself.")
    return found[0]


def _read_visual(file: Path) -> dict[str, Tensor]:
    """Read the tensors whose names begin with "visual."; of safetensors, only those."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith("visual.")]
            state = {name: tensors.get_tensor(name) for name in names}
    else:
        from open_clip.factory import load_state_dict

        whole = load_state_dict(str(file), weights_only=True)
        state = {name: tensor for name, tensor in whole.items() if name.startswith("visual.")}
    if not state:
        raise ValueError(
            f"{file} has no tensor named 'visual...': it is no checkpoint of open_clip's. A timm "
            "file is for type='timm', a transformers folder for a 'transformers' expert."
        )
    return state
