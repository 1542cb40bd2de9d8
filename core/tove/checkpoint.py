"""Checkpoints: written whole or not at all, with the provenance of every expert, checked on load.

A checkpoint is dict(state_dict, meta, ...) in torch's format, read with `weights_only`. Its meta:
    experts    dict slot -> {name, distribution, version, sha256, options}, of the hub it was
               trained with
    attached   slots that still have parameters in it (a slim checkpoint has fewer than `experts`)
    frozen     fingerprints of the frozen encoder and language model, see `tove.frozen`
    cfg        the config's text
    stage, steps, seed, versions
    world_size, amp   (of those to resume from) how it trained
"""

import errno
import io
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from mmengine.dist import get_world_size
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import print_log
from mmengine.runner.checkpoint import get_torch_safe_globals
from safetensors import SafetensorError
from torch import nn

from tove.errors import CheckpointError

__all__ = [
    "AtomicBackend",
    "atomic_writer",
    "attached_slots",
    "check_provenance",
    "check_way_of_training",
    "expert_difference",
    "is_full_disk",
    "read_checkpoint",
    "remove_unfinished",
    "resumable_checkpoint",
    "save_checkpoint",
    "step_of",
    "unwritable",
    "way_of_training",
    "write_checkpoint",
    "write_text",
    "writing",
]

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # see `atomic_writer`
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """Give the one sentence for a file or folder that cannot be written."""
    return CheckpointError(
        f"Writing {path} failed ({getattr(error, 'strerror', None) or error}); what was there "
        "before is untouched. Free space or mend the permissions, then go on with --resume."
    )


def is_full_disk(error: OSError) -> bool:
    """Tell whether an error says that there is no room, on the disk or within a quota."""
    return error.errno in _FULL


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in one sentence that `path` cannot be written, where that happens in the block.

    Raises:
        CheckpointError: a write failed, be it of Python's or of safetensors, which has an error of
            its own.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error


@contextmanager
def atomic_writer(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    Raises:
        CheckpointError: the file cannot be written; what was at `path` before is untouched.
    """
    temporary: Path | None = None
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.NamedTemporaryFile(
                mode, dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
            ) as stream:
                temporary = Path(stream.name)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of `atomic_writer` that a killed process left under a folder."""
    for path in folder.rglob(".*.*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_writer(path, "w") as stream:
        stream.write(text)


class AtomicBackend(LocalBackend):
    """mmengine's local file backend, except that `put` never leaves half a file."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically."""
        with atomic_writer(Path(filepath)) as stream:
            stream.write(obj)


register_backend("tove_atomic", AtomicBackend, force=True)


def save_checkpoint(path: Path, model: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write a model's own state (frozen weights stay out, see `ToVE.state_dict`) and its meta."""
    state_dict = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    write_checkpoint(path, {"meta": dict(meta), "state_dict": state_dict})


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    It is made in memory first: where a write fails, torch's own writer raises a RuntimeError about
    positions that does not say so.
    """
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    with atomic_writer(path) as stream:
        stream.write(buffer.getbuffer())


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint at {path}; run the stage that writes it, or correct the path."
        )
    try:
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for damaged and for foreign files
        cause = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({cause}); it is damaged "
            "or was not written by this framework. Delete it and train again, or name another."
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{path} holds no 'state_dict'; name a checkpoint that a stage wrote."
        )
    checkpoint.setdefault("meta", {})
    return checkpoint


def resumable_checkpoint(folder: Path) -> Path | None:
    """Give the newest checkpoint of an interrupted training that can be read; None if it has none.

    A damaged one costs the steps since the one before it.

    Raises:
        CheckpointError: not one of them can be read.
    """
    if not (folder / "last_checkpoint").exists():
        return None
    paths = sorted(folder.glob("iter_*.pth"), key=step_of, reverse=True)
    damaged: list[str] = []
    for path in paths:
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for remark in damaged:
            print_log(f"{remark} Going on from {path.name}.", "current", logging.WARNING)
        return path
    raise CheckpointError(
        f"No checkpoint in {folder} can be resumed from; run without --resume to begin again. "
        + " ".join(damaged)
    )


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
    return ""


def _mend(slot: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if then.get("name") != now.get("name"):
        return f"Set model.experts.{slot}.type={then.get('name')}"
    if then.get("options", now.get("options")) != now.get("options"):
        return f"Give model.experts.{slot} the options it had"
    return f"Install {_source(then)} or give model.experts.{slot}.weights the file it had"


def _source(provenance: Mapping[str, Any]) -> str:
    return f"{provenance.get('distribution')} {provenance.get('version')}"


def _short(provenance: Mapping[str, Any]) -> str:
    digest = provenance.get("sha256")
    return str(digest)[:12] if digest else "none"
