"""How many tokens an encoder gives and how wide they are, told by its config file alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tove.backbones.shapes import architecture
from tove.backbones.vit import locate

__all__ = ["encoder_tokens"]


def encoder_tokens(settings: Mapping[str, Any]) -> tuple[int, tuple[int, int]]:
    """Return the width and the grid of an encoder's tokens; no weights are read.

    Args:
        settings: of the encoder in a config.

    Raises:
        ConfigError: its config file is not at hand.
    """
    vision = _vision_config(settings)
    width = vision.get("hidden_size", vision.get("width"))
    size = settings.get("image_size") or vision["image_size"]
    side = size // vision["patch_size"]
    return width, (side, side)


def _vision_config(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    pretrained = str(settings.get("pretrained", ""))
    if settings.get("model"):  # open_clip's name of an architecture
        import open_clip

        found = open_clip.get_model_config(settings["model"])
        if found:
            return found["vision_cfg"]
    folder = Path(locate(pretrained))
    if (folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file():
        told = json.loads((folder / "open_clip_config.json").read_text())
        return told["model_cfg"]["vision_cfg"]
    whole = architecture(str(folder), "model.encoder.pretrained").to_dict()
    return whole.get("vision_config") or whole
