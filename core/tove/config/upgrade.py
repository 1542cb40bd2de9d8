"""What earlier versions wrote, in configs, checkpoints and work folders, in today's words."""

from collections.abc import Mapping, Sequence
from typing import Any

from tove.config.overlay import plain_settings

__all__ = ["upgraded_model", "upgraded_ranking", "upgraded_stages"]

_ARMS = {"plain": "PlainCLIP", "baseline": "MatchedBaseline", "tove": "ToVE"}


def upgraded_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's settings with the `arm` of version 0.1 as the type that it became."""
    upgraded: dict[str, Any] = plain_settings(settings)
    arm = upgraded.pop("arm", None)
    if arm in _ARMS:
        upgraded["type"] = _ARMS[arm]
    elif arm is not None:
        upgraded["arm"] = arm  # a word that never was one: the model's check says so
    return upgraded


def upgraded_stages(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a config's stages with those of version 0.1 as what they became.

    `TransferStage` is `TrainStage`; rows are named by the config and no more by a stage's name; a
    merge is followed by the stage that exports and measures what it made.
    """
    stages: list[dict[str, Any]] = [plain_settings(entry) for entry in entries]
    if not any(stage.get("type") == "TransferStage" for stage in stages):
        return stages
    upgraded = []
    for stage in stages:
        upgraded.append(stage)
        if stage.get("type") == "TransferStage":
            stage["type"] = "TrainStage"
            if isinstance(stage.get("model"), Mapping):
                stage["model"] = upgraded_model(stage["model"])
            if stage.get("name") == "transfer" and "type" not in stage.get("model", {}):
                stage.setdefault("row", "tove")
        elif stage.get("type") == "DetachStage":
            stage.setdefault("source", "transfer")
        elif stage.get("type") == "MergeStage":
            stage.setdefault("source", "transfer")
            upgraded.append(_export_of(stage))
    return upgraded


def upgraded_ranking(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of a `ranking.json`; version 0.1 ranked by the gate and told no rule."""
    return [
        {"slot": entry["slot"], "rule": "gate", "score": entry["mean_gate_weight"]}
        if "mean_gate_weight" in entry
        else dict(entry)
        for entry in entries
    ]


def _export_of(merge: dict[str, Any]) -> dict[str, Any]:
    """Return the stage that does what a merge of version 0.1 ended with."""
    name, row = merge.get("name"), merge.pop("row", None)
    export = {"type": "ExportStage", "name": f"{name}_export", "source": name, "row": row or name}
    if name == "merge":
        return export | {"name": "merged", "row": row or "merged", "folder": "export"}
    return export | {"role": "control", "folder": f"{name}/export"}
