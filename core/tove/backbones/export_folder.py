"""An export's folder, whole or not at all, and whether it holds what was in memory.

    folder/export.json      source, layer of the tokens, image size, grid, width, teachers

The weights are an ordinary checkpoint of the encoder's own library; this file marks a folder that
a later export may replace, and tells which of the checkpoint's layers the tokens are, and on what
terms the experts may be used that the encoder has learned from.
"""

import json
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor, nn

from tove.atomic_io import temporary_folder, writing
from tove.errors import ConfigError

__all__ = [
    "CARD",
    "MARK",
    "check_free",
    "image_processor",
    "same_tokens",
    "teachers_of",
    "unit_statistics",
    "write_whole",
]

MARK = "export.json"
CARD = "README.md"
"""The model card: its publisher's to edit, so no digest is kept of it."""
_TOLERANCE = 1e-4


def write_whole(
    encoder: Any,  # noqa: ANN401
    folder: str | Path,
    write: Callable[[Path], Mapping[str, Any]],
) -> Path:
    """Write an export, whole or not at all; an earlier one in its place is replaced.

    Args:
        encoder: what is exported, without LoRA layers.
        folder: where to.
        write: fills an empty folder, and gives what export.json says beside the encoder's own.

    Returns:
        The folder.

    Raises:
        ConfigError: the encoder has LoRA layers, or the folder holds something else.
        CheckpointError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder).absolute()
    _check(encoder, folder)
    with writing(folder), temporary_folder(folder) as new:
        about = {"source": _public(encoder.pretrained), "layer": encoder.layer, **write(new)}
        about |= {"image_size": encoder.image_size, "grid": encoder.grid}
        about |= {"width": encoder.width, "teachers": encoder.teachers}
        (new / MARK).write_text(json.dumps(about, indent=2) + "\n")
        _share(new)
        _replace(folder, new)
    return folder


def _public(source: str) -> str:
    """Return a source as others may read it: of a folder of this machine the name alone."""
    path = Path(source).expanduser()
    return path.name if path.exists() else source


def teachers_of(pretrained: str) -> list[dict[str, Any]]:
    """Return the terms of the experts that taught an encoder, if it is read from an export."""
    for folder in (Path(pretrained), Path(pretrained).parent):  # open_clip's is one below
        if (folder / MARK).is_file():
            teachers: list[dict[str, Any]] = json.loads((folder / MARK).read_text()).get("teachers")
            return teachers or []  # earlier exports do not tell
    return []


def _check(encoder: nn.Module, folder: Path) -> None:
    if any("lora_" in name for name, _ in encoder.named_parameters()):
        raise ConfigError(
            "The encoder has LoRA layers, which no stock library would load; export "
            "Merge.merged_encoder(), which folds them in."
        )
    check_free(folder)


def check_free(folder: Path) -> None:
    """Check that an export may be written to a folder.

    Raises:
        ConfigError: it holds something else than an earlier export.
    """
    if folder.exists() and not (folder / MARK).is_file() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} holds files that are not an earlier export; name another folder for it."
        )


def _share(folder: Path) -> None:
    """Give files and folders the rights that the user's others get: safetensors lets none read."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _replace(folder: Path, new: Path) -> None:
    """Put the new folder where the old one is; at no moment is there half a folder."""
    if not folder.exists():
        new.rename(folder)
        return
    with temporary_folder(folder.with_name(f"{folder.name}.old")) as old:
        folder.rename(old / "export")
        try:
            new.rename(folder)
        finally:
            if not folder.exists():
                (old / "export").rename(folder)


@torch.no_grad()
def same_tokens(
    encoder: Any,  # noqa: ANN401
    stock: Callable[[Tensor], Tensor],
) -> None:
    """Hold what a stock library reads from the folder against what is in memory.

    Another architecture's weights fit without a word at times.

    Args:
        encoder: what was exported.
        stock: reads the folder; images [B, 3, H, W] in [0, 1] to tokens [B, N, D].

    Raises:
        ConfigError: they give other tokens.
    """
    shape = (1, 3, encoder.image_size, encoder.image_size)
    images_BCHW = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    # On the CPU: an accelerator's fast float32 convolutions differ by more than the tolerance.
    expected_BND = deepcopy(encoder).cpu()(images_BCHW).float()
    difference = (stock(images_BCHW).float() - expected_BND).abs().max() / expected_BND.std()
    limit = _TOLERANCE if next(encoder.parameters()).dtype == torch.float32 else 0.1
    if not difference < limit:
        raise ConfigError(
            f"The exported encoder gives other tokens than the one in memory (by {difference:.1e} "
            "of their standard deviation), so nothing was written; its architecture has something "
            "that the conversion does not know. Please report it with the encoder's name."
        )


def unit_statistics(encoder: Any) -> dict[str, list[float]]:  # noqa: ANN401
    """Return mean and std of images in [0, 1], as both libraries take them."""
    seen = encoder.preprocess
    span = seen.high - seen.low
    mean, std = seen.mean.flatten(), seen.std.flatten()
    return {"mean": ((mean - seen.low) / span).tolist(), "std": (std / span).tolist()}


def image_processor(encoder: Any, kind: str, crops: bool) -> str:  # noqa: ANN401
    """Return a preprocessor_config.json that every transformers since 4.56 reads.

    Args:
        encoder: has `image_size` and `preprocess`.
        kind: class of the image processor.
        crops: resize the shorter edge and crop the centre, instead of squeezing to a square.
    """
    side = encoder.image_size
    square = {"height": side, "width": side}
    sizes: dict[str, Any] = {"size": square}
    if crops:
        sizes = {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": square}
    settings = {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        **sizes,
        "resample": Resampling[encoder.preprocess.interpolation.upper()].value,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **{f"image_{name}": value for name, value in unit_statistics(encoder).items()},
    }
    return json.dumps(settings, indent=2) + "\n"
