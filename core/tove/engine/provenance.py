"""Which experts a checkpoint was trained with, held against those of the model that loads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tove.engine.checkpoint import read_checkpoint
from tove.errors import CheckpointError
from tove_plugins import discover

__all__ = ["check_provenance", "expert_difference", "packages_of"]


def check_provenance(
    saved: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]], where: str
) -> list[str]:
    """Compare the experts of a checkpoint with those of the model that loads it.

    Args:
        saved: dict slot -> provenance, from the checkpoint's meta.
        current: dict slot -> provenance, of the attached slots of the model.
        where: the checkpoint, as messages name it.

    Returns:
        Remarks that do not stop a run: the same weights out of another version of a package.

    Raises:
        CheckpointError: another expert, or other weights, sits in a slot.
    """
    remarks = []
    for slot, now in current.items():
        if slot not in saved:
            raise CheckpointError(
                f"{where} has no expert '{slot}', which the config attaches; it was trained with "
                f"{', '.join(saved) or 'none'}. Remove '{slot}' from model.experts or train again."
            )
        then = saved[slot]
        difference = expert_difference(then, now)
        if difference:
            raise CheckpointError(
                f"Slot '{slot}' does not hold the expert that {where} was trained with: "
                f"{difference}. {_mend(slot, then, now)}, or train again."
            )
        if _source(then) != _source(now):
            remarks.append(
                f"Expert '{now['name']}' ('{slot}') comes from {_source(now)}; {where} was trained "
                f"with {_source(then)} and the same weights."
            )
    return remarks


def expert_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say how two provenances of a slot differ in what its tokens mean; "" if they do not.

    The distribution counts only where no digest vouches for the weights. Checkpoints that were
    written before options were kept say nothing of them.
    """
    if then.get("name") != now.get("name"):
        return f"it was '{then.get('name')}' and is '{now.get('name')}'"
    if then.get("sha256") != now.get("sha256"):
        return (
            f"the weights of '{now.get('name')}' are others (sha256 {_short(then)} then, "
            f"{_short(now)} now)"
        )
    if not now.get("sha256") and then.get("distribution") != now.get("distribution"):
        return (
            f"'{now.get('name')}' was that of {then.get('distribution')} and is that of "
            f"{now.get('distribution')}"
        )
    before, after = then.get("options", now.get("options")), now.get("options")
    if before != after:
        return f"the options of '{now.get('name')}' were {before} and are {after}"
    before, after = _token_norm(then, now), now.get("token_norm", "none")
    if before != after:
        return f"the tokens of '{now.get('name')}' had token_norm='{before}' and have '{after}'"
    return ""


def packages_of(checkpoint: Path | None) -> str:
    """Say which packages brought the experts of a checkpoint that are not here."""
    saved = read_checkpoint(checkpoint)["meta"].get("experts", {}) if checkpoint else {}
    here = discover().experts
    sources = {
        f"{then['distribution']}=={then['version']}"
        for then in saved.values()
        if then["name"] not in here and then.get("version", "unversioned") != "unversioned"
    }
    mend = " ".join(sorted(sources))
    return f" {checkpoint} was trained with it: pip install {mend}" if sources else ""


def _token_norm(then: Mapping[str, Any], now: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return what a checkpoint says; one of before there was any had none, as has an unfitted."""
    unfitted = None if now.get("token_norm") == "layer_norm" else now.get("token_norm")
    return then.get("token_norm", unfitted or "none")


def _mend(slot: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if then.get("name") != now.get("name"):
        return f"Set model.experts.{slot}.type={then.get('name')}"
    if then.get("options", now.get("options")) != now.get("options"):
        return f"Give model.experts.{slot} the options it had"
    if _token_norm(then, now) != now.get("token_norm", "none"):
        return f"Set model.experts.{slot}.token_norm={_token_norm(then, now)}"
    return f"Install {_source(then)} or give model.experts.{slot}.weights the file it had"


def _source(provenance: Mapping[str, Any]) -> str:
    return f"{provenance.get('distribution')} {provenance.get('version')}"


def _short(provenance: Mapping[str, Any]) -> str:
    digest = provenance.get("sha256")
    return str(digest)[:12] if digest else "none"
