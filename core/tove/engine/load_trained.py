"""Load a trained model to use it: the one that a run's folder holds, as its evaluation loads it.

model = tove.load("work_dirs/tove-tiny_scenes", detached=["depth"])
model.caption(["photo.jpg"])
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from tove.config.loading import load_config
from tove.engine.inference import TrainedModel
from tove.engine.model_checks import check_placement
from tove.engine.planning import needed_slots
from tove.engine.preflight import check_config
from tove.engine.rows import read_rows, role_of
from tove.engine.stages.context import StageContext
from tove.errors import CheckpointError, ConfigError, close_matches
from tove.protocols import Row

__all__ = ["load"]

_PREFERRED = ("method", "variant", "baseline", "plain")  # roles, where no stage is named


def load(
    work_dir: str | Path,
    detached: Collection[str] = (),
    stage: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    batch_size: int | None = None,
) -> TrainedModel:
    """Load a model that a run has trained.

    Args:
        work_dir: the run's folder.
        detached: slots of experts to do without: they are not built, and their packages need not
            be installed.
        stage: whose model, by its name or by that of its row in `results.json` ("merged",
            "baseline", ...). None takes the method's row.
        device: of the model and all its experts; None is an accelerator, if there is one, or
            where the config puts them.
        dtype: of all weights but those of experts whose config has a dtype; None is as trained.
        batch_size: images at once; None is as many as the run was evaluated with.

    Raises:
        ConfigError: no run there, no such stage, expert, device or dtype.
        CheckpointError: the stage has left no model.
    """
    work_dir = Path(work_dir)
    cfg = _config_of(work_dir)
    check_placement("tove.load", {"device": device, "dtype": dtype})
    rows = read_rows(work_dir / "results.json")
    stage, path = _model_of(work_dir, rows, stage)
    detached = [detached] if isinstance(detached, str) else detached
    if device is not None:
        for expert in cfg.model.get("experts", {}).values():
            expert.pop("device", None)
    check_config(cfg, checkpoint=path, without=detached)
    kept = _kept_slots(path, cfg, detached)
    # A user's images are not to be kept.
    context = StageContext(cfg=cfg, work_dir=work_dir.resolve(), keeps_tokens=False)
    if device is not None:
        context.device = torch.device(device)
    model: Any = context.load_model(path, slots=kept)[0]
    if detached and not type(model).detachable:
        raise ConfigError(
            f"The model of stage '{stage}' is a {type(model).__name__}, which cannot do without "
            "experts that it was trained with; name none of them as detached."
        )
    if dtype is not None:
        model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    experts = list(model.running())
    size = batch_size or cfg.test_dataloader.get("batch_size", 16)
    return TrainedModel(model, cfg, stage, experts, _row_of(rows, cfg, stage, experts), size)


def _config_of(work_dir: Path) -> Config:
    path = work_dir / "config.py"
    if not path.is_file():
        raise ConfigError(
            f"{work_dir} is not the folder of a run: there is no config.py in it. Give the folder "
            "that the training wrote, its --work-dir."
        )
    return load_config(str(path), work_dir=str(work_dir))


def _model_of(work_dir: Path, rows: Sequence[Row], wanted: str | None) -> tuple[str, Path]:
    """Find a stage's model: its name and its checkpoint."""
    wanted = wanted or _usual(work_dir, rows)
    row = next((row for row in rows if row["name"] == wanted), None)
    stage, file = wanted, "model.pth"
    if row is not None:
        stage = row["stage"]
        file = f"slim_{len(row['experts'])}.pth" if role_of(row) == "detached" else file
    path = work_dir / stage / file
    if path.is_file():
        return stage, path
    known = {row["name"] for row in rows} | {p.parent.name for p in work_dir.glob("*/model.pth")}
    if row is not None:
        raise CheckpointError(
            f"There is no checkpoint at {path}; it was deleted, or `budget` of the stage left it "
            "out. Name another, with the experts to do without as detached."
        )
    raise ConfigError(f"{work_dir} has no stage or row '{wanted}'. {close_matches(wanted, known)}")


def _usual(work_dir: Path, rows: Sequence[Row]) -> str:
    """Return the name of the row whose model a run is for: the last of the first role there is."""
    for role in _PREFERRED:
        for row in reversed(rows):
            if role_of(row) == role:
                return str(row["name"])
    raise ConfigError(
        f"{work_dir / 'results.json'} has no row of a model to use; train a stage to its end, or "
        "name one whose model is there."
    )


def _kept_slots(path: Path, cfg: Config, detached: Collection[str]) -> list[str]:
    """Return the slots that a checkpoint's model answers with, without those to be detached."""
    needed = needed_slots(cfg, path, None)
    slots = [slot for slot in cfg.model.get("experts", {}) if slot in needed]
    for slot in detached:
        if slot not in slots:
            raise ConfigError(
                f"'{slot}' is to be detached, but no expert of the model in {path} has that slot. "
                f"{close_matches(slot, slots)}"
            )
    return [slot for slot in slots if slot not in detached]


def _row_of(rows: Sequence[Row], cfg: Config, stage: str, experts: Sequence[str]) -> Row | None:
    """Find the row that was measured on a model: of its stage, or of one that takes it apart."""
    sources = {entry["name"]: entry.get("source") for entry in cfg.stages}
    for row in rows:
        taken_apart = role_of(row) == "detached" and sources.get(row["stage"]) == stage
        if (row["stage"] == stage or taken_apart) and set(row["experts"]) == set(experts):
            return row
    return None
