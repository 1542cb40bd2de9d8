"""Where an expert comes from: package, version, digest of its weights, options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tove.backbones.experts.registration import expert_options, expert_spec
from tove_plugins import find_weights, sha256_of

__all__ = ["expert_provenance"]


def expert_provenance(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Tell where a config's expert comes from, to be kept with what was trained on its tokens.

    Returns:
        name, distribution, version, sha256 of the weights, and the options that the config gives;
        the digest is that of the config's own `weights` where it has them, and None for random
        weights or an undeclared digest.
    """
    entry = expert_spec(cfg)
    own_weights = cfg.get("weights")
    if own_weights is not None:
        digest: str | None = sha256_of(Path(find_weights(own_weights)))
    elif cfg.get("tiny") or entry.spec.weights is None:
        digest = None
    else:
        digest = cfg.get("sha256") or entry.spec.weights.sha256
    return {
        "name": entry.spec.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "sha256": digest,
        "options": _plain(
            {k: v for k, v in expert_options(cfg).items() if k not in ("weights", "sha256")}
        ),
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - any config value
    """Copy a config value as data that JSON and a checkpoint give back alike."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | None) else str(value)
