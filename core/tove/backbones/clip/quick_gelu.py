"""Which activation open_clip's weights were trained with, where the name leaves it open.

    QuickGELU(x) = x * sigmoid(1.702 x)         OpenAI's weights, and some others

`open_clip.create_model("ViT-B-32", "openai")` builds plain GELU and warns: every token is a little
off. A tag knows its activation; a weights file's open_clip_config.json does; else its name may.
"""

import json
import logging
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from tove.errors import ConfigError

__all__ = ["forces_quick_gelu"]

_NAMES = ("openai", "quickgelu", "quick_gelu", "metaclip", "dfn")


def forces_quick_gelu(
    model_cfg: dict[str, Any], model: str | None, weights: str | None, asked: bool | None
) -> bool:
    """Tell whether QuickGELU has to be forced on what open_clip's config says.

    Args:
        model_cfg: open_clip's config of the architecture.
        model: open_clip's name of it; None for a folder or hub id, whose config is its own.
        weights: tag or file; None for a folder or hub id.
        asked: what the config file asks for, if it does.

    Raises:
        ConfigError: the architecture has QuickGELU, and the weights were trained without.
    """
    has = bool(model_cfg.get("quick_gelu", False))
    wanted = asked
    if wanted is None:
        wanted = has if model is None or weights is None else _trained_with(model, weights)
    if wanted is None:
        if not Path(str(weights)).is_file():
            return False  # open_clip says so, and knows what there is
        print_log(
            f"Nothing says which activation {weights!r} was trained with; it is read with "
            f"{'QuickGELU' if has else 'plain GELU'}, as open_clip's {model!r} is. Set "
            "model.encoder.quick_gelu to True for OpenAI's weights, else to False.",
            logger="current",
            level=logging.WARNING,
        )
        return False
    if has and not wanted:
        raise ConfigError(
            f"open_clip's {model or 'config of this folder'!r} has QuickGELU, but the weights "
            f"{weights!r} were trained with plain GELU; set model.encoder.model to the "
            "architecture without '-quickgelu', or model.encoder.quick_gelu=True to insist."
        )
    return wanted and not has


def _trained_with(model: str, weights: str) -> bool | None:
    """Tell whether weights were trained with QuickGELU; None where nothing says."""
    from open_clip.pretrained import get_pretrained_cfg

    if tag := get_pretrained_cfg(model.replace("/", "-"), weights):
        return bool(tag.get("quick_gelu", False))
    file = Path(weights)
    beside = file.parent / "open_clip_config.json"
    if beside.is_file():
        told = json.loads(beside.read_text(encoding="utf-8")).get("model_cfg", {})
        return bool(told.get("quick_gelu", False))
    if any(name in file.name.lower() for name in _NAMES):
        return True
    return None
