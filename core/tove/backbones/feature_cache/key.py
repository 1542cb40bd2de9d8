"""What frozen tokens depend on, and the keys that are made of it: a changed anything is a miss.

    table = sha256(format, expert, distribution, version, weights, spec, view, codec, dtype)
    entry = sha256(table, sha256(pixels of the view))

Weights are known by the digest of their file where the plugin or the config tells it, else by that
of every parameter and buffer of the built network.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tove.backbones.experts.provenance import expert_provenance
from tove.backbones.experts.registration import expert_spec, is_stored, stored_of
from tove.backbones.preprocess import Preprocess
from tove.config.environment import origin_of
from tove_plugins import ExpertSpec

__all__ = [
    "FORMAT",
    "Source",
    "describe_encoder",
    "describe_expert",
    "entry_key",
    "state_digest",
    "table_key",
]

FORMAT = 1
"""Of the folder's files; another one is never read."""

Grid = tuple[int, int]


@dataclass(frozen=True)
class Source:
    """A frozen network whose tokens are kept.

    Attributes:
        slot: in the config; "clip" is the encoder.
        settings: of the config, as text: what tells two networks of one run apart.
        width: of a token.
        grid: of the tokens, (rows, columns).
        is_map: whether they are a low-level map, which is not resampled.
        describe: says what the tokens depend on, but for the view and the codec.
        mirrors: whether a mirrored image has the mirrored grid of tokens.
    """

    slot: str
    settings: str
    width: int
    grid: Grid
    is_map: bool
    describe: Callable[[], Mapping[str, Any]]
    mirrors: bool = False


def describe_expert(
    cfg: Mapping[str, Any], network: Callable[[], nn.Module] | None = None
) -> dict[str, Any]:
    """Say what an expert's tokens depend on.

    Args:
        cfg: of its slot.
        network: gives the built expert; asked where no digest of its weights is declared.
    """
    dtype = str(cfg.get("dtype") or "float32").removeprefix("torch.")
    placed = {"dtype": dtype}
    if cfg.get("resize", "float32") != "float32":
        placed["resize"] = cfg["resize"]
    if is_stored(cfg):
        return {**stored_of(cfg)[0], **placed}  # its package is not here
    found = expert_provenance(cfg)
    weights = found["sha256"]
    if weights is None and network is not None:
        weights = f"state:{state_digest(network())}"
    return {
        "name": found["name"],
        "distribution": found["distribution"],
        "version": found["version"],
        "weights": weights,
        "options": found["options"],
        "spec": _spec(expert_spec(cfg).spec),
        **placed,
    }


def _spec(spec: ExpertSpec) -> dict[str, Any]:
    """Return what of a spec its tokens depend on; texts may be put better without a miss."""
    whole = spec.as_dict()
    if not whole["tokens"]["mirrors"]:  # what no spec said when the first tokens were kept
        del whole["tokens"]["mirrors"]
    return {key: whole[key] for key in ("task", "factory", "options", "tokens", "image")}


def describe_encoder(encoder: Any) -> dict[str, Any]:  # noqa: ANN401 - any of ENCODERS
    """Say what a frozen encoder's tokens depend on; every weight counts."""
    origin = {name: told for name, told in origin_of(type(encoder)).items() if name != "type"}
    preprocess = [_preprocessing(m) for m in encoder.modules() if isinstance(m, Preprocess)]
    return {
        "name": type(encoder).__name__,
        "distribution": ", ".join(origin),
        "version": ", ".join(origin.values()),
        "weights": f"state:{state_digest(encoder)}",
        "options": {"layer": getattr(encoder, "layer", None)},
        "spec": {
            "tokens": {"width": encoder.width, "grid": encoder.grid, "kind": "features"},
            "image": preprocess,
        },
        "dtype": str(next(encoder.parameters()).dtype).removeprefix("torch."),
    }


def _preprocessing(preprocess: Preprocess) -> dict[str, Any]:
    """Return the settings of a network's preprocessing as plain data."""
    return {
        "size": preprocess.size,
        "value_range": (preprocess.low, preprocess.high),
        "interpolation": preprocess.interpolation,
        "mean": preprocess.mean.flatten().tolist(),
        "std": preprocess.std.flatten().tolist(),
    }


def state_digest(network: nn.Module) -> str:
    """Return the sha256 of every parameter and buffer: name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    state = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in sorted(state, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def table_key(description: Mapping[str, Any]) -> str:
    """Return the digest of a description, view and codec included."""
    text = json.dumps({"format": FORMAT, **description}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def entry_key(table: str, view: str) -> bytes:
    """Return the 16 bytes that one view's tokens have in one table."""
    return hashlib.sha256(f"{table} {view}".encode()).digest()[:16]
