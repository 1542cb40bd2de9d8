"""Fingerprints of what is frozen: which encoder and language model a checkpoint was trained with.

A checkpoint holds no frozen weights, so other ones of the same shape would be taken in their place
without a word. A digest of the experts' files says which theirs are; an encoder or language model
comes from a folder or a hub, and what is loaded of it is sampled here:

    sha256 over name, shape and up to 64 evenly spaced values of every frozen parameter
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from tove.errors import CheckpointError

__all__ = ["check_frozen", "fingerprints"]

_VALUES = 64


def fingerprints(**parts: nn.Module) -> dict[str, str]:
    """Give the fingerprint of each part's frozen parameters.

    Values are rounded to bfloat16, so that weights which are loaded in it are the same ones; what
    is in float16, which rounds otherwise, has "", which is compared with nothing, as has what
    holds no numbers.
    Position tables are left out: they follow the image size, interpolated as the processor rounds.
    """
    return {name: _fingerprint(part) for name, part in parts.items()}


def _fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or "position" in name:
            continue
        if parameter.dtype == torch.float16 or parameter.is_meta:
            return ""
        values = parameter.detach().reshape(-1)
        step = -(-values.numel() // _VALUES) or 1
        # As float32 once more, as numpy knows no bfloat16.
        sampled = values[::step].cpu().to(torch.bfloat16).float()
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        digest.update(sampled.numpy().tobytes())
    return digest.hexdigest()


def check_frozen(saved: Mapping[str, str] | None, current: Mapping[str, str], where: str) -> None:
    """Compare the frozen parts of a checkpoint with those of the model that loads it.

    Args:
        saved: by part, of the checkpoint's meta; None if it was written before these were kept.
        current: by part, of the model.
        where: the checkpoint, as messages name it.

    Raises:
        CheckpointError: other weights, or another architecture, in front of what was trained.
    """
    for part, now in current.items():
        then = (saved or {}).get(part, now)
        if then and now and then != now:
            raise CheckpointError(
                f"{where} was trained with another {part}: the fingerprint of its frozen weights "
                f"was {then[:12]} and is {now[:12]}. Point model.{part}.pretrained at the weights "
                "it had, or train again."
            )
