"""Write an encoder as an ordinary CLIP checkpoint that stock libraries load without this one.

    folder/config.json, model.safetensors, preprocessor_config.json      transformers
    folder/open_clip/open_clip_config.json, open_clip_model.safetensors  open_clip
    folder/export.json                                                   source, layer of the tokens

    CLIPVisionModel.from_pretrained(folder)
    open_clip.create_model(f"local-dir:{folder}/open_clip")

open_clip's CLIP is never without a text tower. It is the source's, where that was a full CLIP, and
a placeholder of zeros where it was a vision tower alone; export.json says which.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Collection
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Resampling
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModel,
)

from tove.atomic_io import writing
from tove.backbones.clip.convert import (
    open_clip_config,
    open_clip_state,
    vision_config_from_open_clip,
    vision_state_from_open_clip,
    vision_state_to_open_clip,
)
from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.errors import ConfigError

__all__ = ["FORMATS", "export_encoder"]

FORMATS = ("transformers", "open_clip")
_MARK = "export.json"
_TOLERANCE = 1e-4


def export_encoder(
    encoder: TransformersCLIP | OpenCLIP, folder: str | Path, formats: Collection[str] = FORMATS
) -> Path:
    """Write an encoder, whole or not at all; an earlier export in its place is replaced.

    Args:
        encoder: a TransformersCLIP or OpenCLIP without LoRA layers, see `Merge.merged_encoder`.
        folder: where to.
        formats: "transformers" and "open_clip", or one of them.

    Returns:
        The folder.

    Raises:
        ConfigError: the encoder has no equal in a format, or the folder holds something else.
        CheckpointError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder).absolute()
    _check(encoder, folder, formats)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            _write(encoder, new, formats)
            _share(new)
            _replace(folder, new)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _write(encoder: TransformersCLIP | OpenCLIP, new: Path, formats: Collection[str]) -> None:
    """Write all formats into an empty folder, each read back and compared."""
    text_tower = None
    if "transformers" in formats:
        _write_transformers(encoder, new)
        _compare(encoder, TransformersCLIP(str(new), layer=encoder.layer))
    if "open_clip" in formats:
        text_tower = _write_open_clip(encoder, new / "open_clip")
        _compare(encoder, OpenCLIP(str(new / "open_clip"), layer=encoder.layer))
    about = {"source": encoder.pretrained, "layer": encoder.layer, "text_tower": text_tower}
    about |= {"image_size": encoder.image_size, "grid": encoder.grid, "width": encoder.width}
    (new / _MARK).write_text(json.dumps(about, indent=2) + "\n")


def _check(encoder: nn.Module, folder: Path, formats: Collection[str]) -> None:
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ConfigError(
            f"There is no export format {unknown.pop()!r}; use {' or '.join(FORMATS)}."
        )
    if not isinstance(encoder, TransformersCLIP | OpenCLIP):
        raise ConfigError(
            f"A {type(encoder).__name__} cannot be exported as CLIP; only TransformersCLIP and "
            "OpenCLIP encoders can."
        )
    if any("lora_" in name for name, _ in encoder.named_parameters()):
        raise ConfigError(
            "The encoder has LoRA layers, which no stock library would load; export "
            "Merge.merged_encoder(), which folds them in."
        )
    if folder.exists() and not (folder / _MARK).is_file() and any(folder.iterdir()):
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
    if folder.exists():
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
        folder.rename(old / "export")
        new.rename(folder)
        shutil.rmtree(old)
    else:
        new.rename(folder)


@torch.no_grad()
def _compare(encoder: TransformersCLIP | OpenCLIP, written: nn.Module) -> None:
    """Read back what was written: another architecture's weights fit without a word at times."""
    shape = (1, 3, encoder.image_size, encoder.image_size)
    images_BCHW = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    reference = next(encoder.parameters())
    # On the CPU: an accelerator's fast float32 convolutions differ by more than the tolerance.
    expected_BND = deepcopy(encoder).cpu()(images_BCHW).float()
    written.to(reference.dtype)
    difference = (written(images_BCHW).float() - expected_BND).abs().max() / expected_BND.std()
    limit = _TOLERANCE if reference.dtype == torch.float32 else 0.1
    if not difference < limit:
        raise ConfigError(
            f"The exported encoder gives other tokens than the one in memory (by {difference:.1e} "
            "of their standard deviation), so nothing was written; its architecture has something "
            "that the conversion does not know. Please report it with the encoder's name."
        )


def _write_transformers(encoder: TransformersCLIP | OpenCLIP, folder: Path) -> None:
    if isinstance(encoder, TransformersCLIP):
        model = encoder.model
    else:
        config = vision_config_from_open_clip(_open_clip_source(encoder), encoder.visual)
        model = CLIPVisionModel(config)
        state = vision_state_from_open_clip(encoder.visual.state_dict())
        model.vision_model.load_state_dict(state)
        model.to(encoder.visual.conv1.weight.dtype)
    model.save_pretrained(folder)
    side = encoder.image_size
    CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=Resampling[encoder.preprocess.interpolation.upper()],
        **_statistics(encoder, "image_"),
    ).save_pretrained(folder)


def _statistics(encoder: TransformersCLIP | OpenCLIP, prefix: str = "") -> dict[str, Any]:
    seen = encoder.preprocess
    return {f"{prefix}{n}": getattr(seen, n).flatten().tolist() for n in ("mean", "std")}


def _open_clip_source(encoder: OpenCLIP) -> dict[str, Any]:
    """Read the source's model_cfg again, brought to the encoder's image size."""
    import open_clip

    model_cfg = open_clip.get_model_config(encoder.source[0])
    model_cfg["vision_cfg"]["image_size"] = encoder.image_size
    return model_cfg


def _write_open_clip(encoder: TransformersCLIP | OpenCLIP, folder: Path) -> str:
    """Write open_clip's folder; say whose text tower is in it."""
    folder.mkdir()
    text_tower = "source"
    if isinstance(encoder, OpenCLIP):
        import open_clip

        model_cfg = _open_clip_source(encoder)
        state = open_clip.create_model(*encoder.source, require_pretrained=True).state_dict()
        state |= {f"visual.{n}": t for n, t in encoder.visual.state_dict().items()}
    else:
        model_cfg, state, text_tower = _convert(encoder, folder)
    settings = {
        **_statistics(encoder),
        "interpolation": encoder.preprocess.interpolation,
        "resize_mode": "shortest",
    }
    config = json.dumps({"model_cfg": model_cfg, "preprocess_cfg": settings}, indent=2)
    (folder / "open_clip_config.json").write_text(config + "\n")
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return text_tower


def _convert(
    encoder: TransformersCLIP, folder: Path
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Give open_clip's model_cfg and state of a transformers encoder, with its text tower."""
    import open_clip

    vision = {n: t.cpu() for n, t in encoder.model.vision_model.state_dict().items()}
    source = _full_source(encoder.source)
    model_cfg = open_clip_config(encoder.model.config, source)
    if source is not None:
        if _copy_tokenizer(encoder.source, folder):
            model_cfg["text_cfg"]["hf_tokenizer_name"] = "."
        return model_cfg, open_clip_state(vision, source), "source"
    state = {n: torch.zeros_like(t) for n, t in open_clip.CLIP(**model_cfg).state_dict().items()}
    visual = vision_state_to_open_clip(vision, None)
    return model_cfg, state | {f"visual.{n}": t for n, t in visual.items()}, "placeholder"


def _full_source(source: str) -> CLIPModel | None:
    """Load the full CLIP that an encoder came from; None if it was a vision tower alone."""
    try:
        if not isinstance(AutoConfig.from_pretrained(source), CLIPConfig):
            return None
        return CLIPModel.from_pretrained(source)
    except OSError as error:
        raise ConfigError(
            f"The encoder's source {source!r}, which open_clip's text tower comes from, is gone; "
            "put it back, or export with formats=('transformers',)."
        ) from error


def _copy_tokenizer(source: str, folder: Path) -> bool:
    """Copy the source's tokenizer, where it has one: open_clip's own knows only OpenAI's words."""
    if not any((Path(source) / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return False
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return True
