"""Checkpoints: written whole or not at all, with the provenance of every expert, checked on load.

A checkpoint is dict(state_dict, meta, ...) in torch's format, read with `weights_only`. Its meta:
    experts    dict slot -> {name, distribution, version, sha256, options}, of the hub it was
               trained with
    attached   slots that still have parameters in it (a slim checkpoint has fewer than `experts`)
    frozen     fingerprints of the frozen encoder and language model, see `tove.engine.fingerprints`
    cfg        the config's text
    stage, steps, seed, versions
    world_size, amp   (of those to resume from) how it trained

One to resume from, of a sharded training, is a file for each process: iter_8.pth of the main one,
iter_8.shard_1 of the next, ... Its `shards` says how many there are; `read_checkpoint` puts them
together.
"""

import io
import logging
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_torch_safe_globals

from tove.atomic_io import atomic_writer
from tove.engine.sharding import gathered, joined
from tove.errors import CheckpointError
from tove_plugins import weights_problem

__all__ = [
    "attached_slots",
    "check_way_of_training",
    "read_checkpoint",
    "resumable_checkpoint",
    "save_checkpoint",
    "shard_of",
    "step_of",
    "way_of_training",
    "write_checkpoint",
]


def save_checkpoint(path: Path, model: Any, meta: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Write a model's own state (frozen weights stay out) and its meta.

    All processes call it: a sharded state is gathered by all, and written by one.
    """
    state_dict = {name: tensor.cpu() for name, tensor in gathered(model.state_dict()).items()}
    if is_main_process():
        write_checkpoint(path, {"meta": dict(meta), "state_dict": state_dict})


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    It is made in memory first: where a write fails, torch's own writer raises a RuntimeError about
    positions that does not say so. The view of it is released by hand: the traceback of a failed
    write holds it in a cycle, and Python 3.12.1 crashes on collecting that (cpython's gh-111049).
    """
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    with atomic_writer(path) as stream, buffer.getbuffer() as view:
        stream.write(view)


def shard_of(path: Path, process: int) -> Path:
    """Return the file of a process that belongs to a checkpoint of a sharded training."""
    return path.with_suffix(f".shard_{process}") if process else path


def read_checkpoint(path: str | Path, part: int | None = None) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Args:
        path: of the checkpoint.
        part: the process whose part of a sharded one is wanted; None is the whole.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds more than data.
    """
    checkpoint = _read(Path(path))
    shards = checkpoint.get("shards")  # 1 of a single process, whose tensors are parts as well
    if shards is None or part == 0:
        return checkpoint
    if part is not None:
        return _read(shard_of(Path(path), part))
    others = [_read(shard_of(Path(path), process)) for process in range(1, shards)]
    whole: dict[str, Any] = joined([checkpoint, *others])
    del whole["shards"]
    return whole


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}; run the stage that writes it, or correct the path."
        )
    try:
        _check_archive(path)
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for damaged and for foreign files
        if problem := weights_problem(path):
            raise CheckpointError(f"{path} cannot be read as a checkpoint. {problem}") from error
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({_cause(error)}); it is damaged "
            "or was not written by this framework. Delete it and train again, or name another."
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{path} holds no 'state_dict'; name a checkpoint that a stage wrote."
        )
    checkpoint.setdefault("meta", {})
    return checkpoint


def _cause(error: Exception) -> str:
    """Return an error's first line, or what torch refused to call, which its long message hides."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds {refused[1]}, which is code and no data, and was not read"
    return next(iter(str(error).splitlines()), type(error).__name__)


def _check_archive(path: Path) -> None:
    """Hold every part of an archive against its checksum, which torch writes and never looks at."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def resumable_checkpoint(
    folder: Path, part: int | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint of an interrupted training that can be read; None for none.

    It is returned with its path, so that nobody reads it twice.

    A damaged one costs the steps since the one before it.

    Args:
        folder: of the training.
        part: the process that asks for its part of a sharded training; all of them ask together,
            and are given the same step. None is the whole.

    Raises:
        CheckpointError: there are some, and not one of them can be read.
    """
    paths = sorted(folder.glob("iter_*.pth"), key=step_of, reverse=True)
    if not paths or not (folder / "last_checkpoint").exists():
        return None
    damaged: list[str] = []
    for path in paths:
        checkpoint, error = _read_together(path, part)
        if checkpoint is None:
            damaged.append(error)
            continue
        for remark in damaged:
            print_log(f"{remark} Going on from {path.name}.", "current", logging.WARNING)
        return path, checkpoint
    raise CheckpointError(
        f"No checkpoint in {folder} can be resumed from; run without --resume to begin again. "
        + " ".join(damaged)
    )


def _read_together(path: Path, part: int | None) -> tuple[dict[str, Any] | None, str]:
    """Read a checkpoint, or say what is wrong; with a part, with another process's one as well."""
    error = ""
    try:
        checkpoint: dict[str, Any] | None = read_checkpoint(path, part)
    except CheckpointError as raised:
        checkpoint, error = None, str(raised)
    if part is None:
        return checkpoint, error
    errors = [e for e in all_gather_object(error) if e]
    return (None, errors[0]) if errors else (checkpoint, "")


def step_of(path: Path) -> int:
    """Give the step of a resumable checkpoint by its name, iter_STEP.pth."""
    return int(path.stem.rpartition("_")[2])


def attached_slots(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Tell which experts a checkpoint has parameters for; None if it does not say."""
    attached = checkpoint["meta"].get("attached")
    return None if attached is None else list(attached)


def way_of_training(amp: bool) -> dict[str, Any]:
    """Give the entries of a meta that say how a training runs, which must not change within it."""
    return {"world_size": get_world_size(), "amp": amp}


def check_way_of_training(meta: Mapping[str, Any], amp: bool, where: str) -> None:
    """Refuse to go on with a training in another way than it began.

    Each process skips as many steps of its own share of the data as were taken: with another number
    of processes that is other data than was seen. Checkpoints that do not say are let pass.

    Args:
        meta: of the checkpoint.
        amp: whether precision is mixed now.
        where: the checkpoint, as messages name it.

    Raises:
        CheckpointError: another number of processes, or another precision.
    """
    now = way_of_training(amp)
    then = {key: meta.get(key, value) for key, value in now.items()}
    if then == now:
        return
    number = then["world_size"]
    launch = f"torchrun --nproc_per_node={number} and --launcher pytorch"
    mend = {
        "world_size": launch if number > 1 else "no --launcher",
        "amp": "--amp" if then["amp"] else "no --amp",
    }
    wanted = " and ".join(mend[key] for key in now if then[key] != now[key])
    raise CheckpointError(
        f"{where} is of a training by {_way(then)}, which {_way(now)} cannot go on with: some data "
        "would be repeated or left out, or the precision change midway. Resume it with "
        f"{wanted}, or run without --resume to begin again."
    )


def _way(way: Mapping[str, Any]) -> str:
    number = way["world_size"]
    processes = "1 process" if number == 1 else f"{number} processes"
    return f"{processes} {'with' if way['amp'] else 'without'} --amp"
