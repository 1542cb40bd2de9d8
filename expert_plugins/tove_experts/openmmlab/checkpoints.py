"""Load checkpoints in the format of mmengine's Runner: dict(state_dict=..., meta=..., ...).

Files are read as data: safetensors, or `torch.load(weights_only=True)`. Beside tensors a Runner
saves numpy's numbers and its log of losses, a `HistoryBuffer` that names its methods by `getattr`.
While one file is read numbers are allowed, and these two names stand for stand-ins that do nothing.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["load_checkpoint"]

_SHOWN = 3


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load what the model has from a checkpoint; entries of parts that it lacks are left.

    Raises:
        ValueError: The file is not a checkpoint, or lacks weights of the model.
        RuntimeError: A weight has another shape.
    """
    missing = model.load_state_dict(_read_state(path), strict=False).missing_keys
    if missing:
        named = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise ValueError(
            f"The checkpoint {path} lacks {len(missing)} weights of the model ({named}). Give the "
            "config that it was trained with; if only the norm of a stage is missing, choose "
            "another stage."
        )


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        with torch.serialization.safe_globals(list(_harmless())):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"The checkpoint {path} holds what is not plain data ({_named(error)}), so it is not "
            "loaded. If you trust it, keep its 'state_dict' alone, by torch.save() or as "
            "safetensors."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{path} is no checkpoint: it has neither a 'state_dict' nor tensors by name."
        )
    return state


def _named(error: UnpicklingError) -> str:
    """Give the name that torch refused, which its long message hides."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else str(error).partition("\n")[0]


class _Log:
    """Stands for HistoryBuffer; keeps what is put into it."""


def _method(owner: object, name: str) -> None:
    """Stand for the getattr by which a pickled HistoryBuffer names its methods."""


def _harmless() -> Iterator[Any]:
    """Give what a file may name, as `torch.serialization.safe_globals` takes it."""
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    yield (_Log, "mmengine.logging.history_buffer.HistoryBuffer")
    for builtins in ("builtins", "__builtin__"):  # pickles of protocol 2 use Python 2's name
        yield (_method, f"{builtins}.getattr")
    yield from (np.ndarray, np.dtype)
    yield from (type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32))
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before numpy 2, and since
        yield (reconstruct, f"{module}._reconstruct")
        yield (scalar, f"{module}.scalar")
