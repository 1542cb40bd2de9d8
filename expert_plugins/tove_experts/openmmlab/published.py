"""What OpenMMLab publishes: which weights belong to a config, and what they were trained on.

The libraries ship an index, `metafile.yml`, beside each model's configs. A published file is named
by its URL; the SDK fetches it where a run may, and holds it against the digest in its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tove_plugins import Weights

__all__ = ["UNTOLD", "published_weights"]

UNTOLD = "not told by the library's index"


def published_weights(config: Path) -> Weights:
    """Give the weights that the index beside a config names.

    The indexes tell no licences, and some files are conversions of other people's weights, so
    nothing is promised.

    Raises:
        ValueError: It names none.
    """
    import yaml

    index_file = config.with_name("metafile.yml")
    index = yaml.safe_load(index_file.read_text(encoding="utf-8")) if index_file.is_file() else {}
    families = {family["Name"]: family for family in index.get("Collections", ())}
    for model in index.get("Models", ()):
        if model.get("Weights") and Path(model.get("Config", "")).name == config.name:
            family = families.get(model.get("In Collection"), {})
            trained_on = _training_data(model) or _training_data(family) or UNTOLD
            return Weights(source=model["Weights"], trained_on=trained_on)
    raise ValueError(
        f"{index_file} names no weights for the config {config.name}; give the checkpoint as "
        "`weights`."
    )


def _training_data(entry: dict[str, Any]) -> str:
    data = entry.get("Metadata", {}).get("Training Data") or ()
    return ", ".join([data] if isinstance(data, str) else data)
