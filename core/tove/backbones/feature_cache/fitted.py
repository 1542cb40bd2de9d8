"""What a codec was fitted to, and what it loses: kept once in a table's folder, by the first."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tove.backbones.feature_cache.codecs import Codec
from tove.backbones.feature_cache.shards import DamagedShard
from tove.backbones.feature_cache.table import FITTED, first_to_write

__all__ = ["ERRORS", "fit", "read_errors", "read_fitted"]

ERRORS = "errors.json"


def read_fitted(codec: Codec, folder: Path) -> bool:
    """Give a codec what was fitted for its table; return whether there is such a file.

    Raises:
        DamagedShard: the file is not what was written.
    """
    path = folder / FITTED
    if codec.components is None or not path.exists():
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in ("mean", "basis")}
            if file.metadata()["sum"] != _sum(state):
                raise ValueError("its checksum does not hold")
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedShard(
            f"{path} is damaged: {error}. Without it nothing in {folder} can be read; remove that "
            "folder and run `mim run tove_plugins cache CONFIG`."
        ) from error
    codec.state = state
    return True


def fit(codec: Codec, folder: Path, sample_BMD: Tensor, held_out_BMD: Tensor) -> None:
    """Fit a codec and note what it loses, unless somebody else was first.

    Args:
        codec: what was fitted first is what it has afterwards.
        folder: of its table.
        sample_BMD: tokens that it is fitted to.
        held_out_BMD: tokens of other images.
    """
    from safetensors.torch import save

    if codec.components is not None and not read_fitted(codec, folder):
        codec.fit(sample_BMD)
        first_to_write(folder / FITTED, save(codec.state, {"sum": _sum(codec.state)}))
        read_fitted(codec, folder)
    errors = {
        "fitted": codec.error(sample_BMD),
        "fitted_images": len(sample_BMD),
        "held_out": codec.error(held_out_BMD),
        "held_out_images": len(held_out_BMD),
    }
    first_to_write(folder / ERRORS, json.dumps(errors, indent=1).encode())


def read_errors(folder: Path) -> Mapping[str, Any]:
    """Return the share of the variance that a table's codec loses, and of how many images."""
    path = folder / ERRORS
    found: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _sum(state: Mapping[str, Tensor]) -> str:
    import xxhash

    total = xxhash.xxh3_128()
    for name in ("mean", "basis"):
        total.update(state[name].numpy().tobytes())
    return total.hexdigest()
