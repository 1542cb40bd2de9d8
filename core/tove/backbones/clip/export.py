"""Write an encoder as an ordinary CLIP checkpoint that stock libraries load without this one.

    folder/config.json, model.safetensors, preprocessor_config.json      transformers
    folder/open_clip/open_clip_config.json, open_clip_model.safetensors  open_clip
    folder/export.json                                                   source, layer of the tokens

    CLIPVisionModel.from_pretrained(folder), CLIPModel.from_pretrained(folder)
    open_clip.create_model(f"local-dir:{folder}/open_clip")

Where the source is a full CLIP, so is the export: its text tower, projections, temperature and
tokenizer are the source's, and texts find images as before, as far as the merge has left the image
tower where it was (`tove.backbones.clip.retrieval` measures that). open_clip's CLIP is never
without a text tower; that of a source without one is a placeholder of zeros. export.json says
which formats have one to be used.
"""

import json
from collections.abc import Collection, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, CLIPConfig, CLIPModel, CLIPVisionModel

from tove.backbones.clip.convert import (
    clip_from_open_clip,
    open_clip_config,
    open_clip_state,
    placeholder_text_config,
    vision_config_from_open_clip,
    vision_state_from_open_clip,
    vision_state_to_open_clip,
)
from tove.backbones.clip.text_side import (
    find_tokenizer,
    mark_ends,
    save_tokenizer,
    write_openai_tokenizer,
)
from tove.backbones.export_folder import image_processor, same_tokens, unit_statistics, write_whole
from tove.backbones.preprocess import Preprocess
from tove.backbones.vit import load_whole, own_preprocess, tower_of
from tove.errors import ConfigError

__all__ = ["FORMATS", "export_encoder", "open_clip_preprocess"]

FORMATS = ("transformers", "open_clip")
_OPENAI_WORDS = 49408
Encoder = Any
"""A TransformersCLIP or an OpenCLIP; its `library` says which."""


def export_encoder(
    encoder: Encoder, folder: str | Path, formats: Collection[str] = FORMATS
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
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ConfigError(
            f"There is no export format {unknown.pop()!r}; use {' or '.join(FORMATS)}."
        )
    if getattr(encoder, "library", None) not in FORMATS:
        raise ConfigError(
            f"A {type(encoder).__name__} cannot be exported as CLIP; only TransformersCLIP and "
            "OpenCLIP encoders can."
        )
    return write_whole(encoder, folder, partial(_write, encoder, formats))


def _write(encoder: Encoder, formats: Collection[str], new: Path) -> Mapping[str, Any]:
    """Write all formats into an empty folder, each read back and compared."""
    with_text = []
    if "transformers" in formats:
        if _write_transformers(encoder, new):
            with_text.append("transformers")
        same_tokens(encoder, partial(_stock_transformers, new, encoder.layer))
    if "open_clip" in formats:
        if _write_open_clip(encoder, new / "open_clip"):
            with_text.append("open_clip")
        same_tokens(encoder, partial(_stock_open_clip, new / "open_clip", encoder.num_blocks))
    return {"text_tower": "source" if with_text else "placeholder", "zero_shot": with_text}


def _stock_transformers(folder: Path, layer: int, images_BCHW: Tensor) -> Tensor:
    """Give the tokens as a user of transformers reads them from the folder."""
    model = load_whole(CLIPVisionModel, str(folder), str(folder)).eval()
    preprocess = own_preprocess(str(folder), model.config.image_size)
    states = model(preprocess(images_BCHW), output_hidden_states=True).hidden_states
    return states[layer][:, 1:]


def _stock_open_clip(folder: Path, num_blocks: int, images_BCHW: Tensor) -> Tensor:
    """Give the tokens as a user of open_clip reads them from the folder."""
    import open_clip

    visual = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval().visual
    pixels_BCHW = open_clip_preprocess(visual)(images_BCHW)
    if num_blocks == 0:
        return visual._embeds(pixels_BCHW)[:, 1:]
    return visual.forward_intermediates(
        pixels_BCHW, indices=[num_blocks - 1], output_fmt="NLC", intermediates_only=True
    )["image_intermediates"][0]


def _write_transformers(encoder: Encoder, folder: Path) -> bool:
    """Write a CLIPModel, or a CLIPVisionModel where the source has no text tower of CLIP's kind."""
    make = _from_transformers if encoder.library == "transformers" else _from_open_clip
    model, has_text = make(encoder, folder)
    model.config = deepcopy(model.config)  # the encoder's own still says where it is from
    sides = (getattr(model.config, f"{side}_config", None) for side in ("vision", "text"))
    for config in filter(None, (model.config, *sides)):
        config._name_or_path = ""  # it would be a path of this machine
    model.save_pretrained(folder)
    settings = image_processor(encoder, "CLIPImageProcessor", crops=True)
    (folder / "preprocessor_config.json").write_text(settings)
    return has_text


def _from_transformers(encoder: Encoder, folder: Path) -> tuple[Any, bool]:
    tower = deepcopy(encoder.tower).cpu()
    dtype = tower.post_layernorm.weight.dtype
    full = _full_source(encoder.source)
    if full is None:
        model = CLIPVisionModel(encoder.tower_config)
        tower_of(model).load_state_dict(tower.state_dict())
        return model.to(dtype), False
    full.vision_model, full.config.vision_config = tower, encoder.tower_config
    tokenizer = find_tokenizer(encoder.source)
    text = full.config.text_config
    if tokenizer is not None:
        marked = mark_ends(tokenizer, _read_at(text.eos_token_id))
        save_tokenizer(marked, folder, text.max_position_embeddings)
    return full.to(dtype), True


def _read_at(eos_token_id: int) -> int | None:
    """Return the token that a text tower is read at; 2 is an old way to say: the highest id."""
    return None if eos_token_id == 2 else eos_token_id


def _from_open_clip(encoder: Encoder, folder: Path) -> tuple[Any, bool]:
    model_cfg, visual = _model_cfg(encoder), deepcopy(encoder.visual).cpu()
    config = vision_config_from_open_clip(model_cfg, visual)
    state, dtype = vision_state_from_open_clip(visual.state_dict()), visual.conv1.weight.dtype
    full = None if _is_placeholder(model_cfg) else encoder.load_source()
    clip = full and clip_from_open_clip(model_cfg, full, config, state)
    if clip is None:
        model = CLIPVisionModel(config)
        tower_of(model).load_state_dict(state)
        return model.to(dtype), False
    text = model_cfg["text_cfg"]
    tokenizer = _own_tokenizer(encoder, text)
    if tokenizer is not None:
        marked = mark_ends(tokenizer, _read_at(clip.config.text_config.eos_token_id))
        save_tokenizer(marked, folder, clip.config.text_config.max_position_embeddings)
    elif clip.config.text_config.vocab_size == _OPENAI_WORDS:
        write_openai_tokenizer(folder, clip.config.text_config.max_position_embeddings)
    return clip.to(dtype), True


def _own_tokenizer(encoder: Encoder, text_cfg: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Load the tokenizer of transformers that an open_clip source names; None for open_clip's."""
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        return None
    source = encoder.source[0]
    return find_tokenizer(source.removeprefix("local-dir:") if ":" in source else name)


def _is_placeholder(model_cfg: Mapping[str, Any]) -> bool:
    return model_cfg["text_cfg"] == placeholder_text_config()


def _model_cfg(encoder: Encoder) -> dict[str, Any]:
    """Read the source's model_cfg again, brought to the encoder's image size."""
    model_cfg = encoder.model_cfg()
    model_cfg["vision_cfg"]["image_size"] = encoder.image_size
    return model_cfg


def _write_open_clip(encoder: Encoder, folder: Path) -> bool:
    """Write open_clip's folder; say whether a text tower to be used is in it."""
    folder.mkdir()
    if encoder.library == "open_clip":
        model_cfg = _model_cfg(encoder)
        has_text = not _is_placeholder(model_cfg)
        state = encoder.load_source().state_dict()
        state |= {f"visual.{n}": t for n, t in encoder.visual.state_dict().items()}
        tokenizer = _own_tokenizer(encoder, model_cfg["text_cfg"])
        read_at = model_cfg["text_cfg"].get("eos_id")
    else:
        model_cfg, state, has_text = _convert(encoder)
        tokenizer = find_tokenizer(encoder.source) if has_text else None
        read_at = model_cfg["text_cfg"].get("eos_id")
    if tokenizer is not None:
        # open_clip's own knows only OpenAI's words.
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "."
        context_length = model_cfg["text_cfg"].get("context_length", 77)
        save_tokenizer(mark_ends(tokenizer, read_at), folder, context_length)
    settings = {
        **unit_statistics(encoder),
        "interpolation": encoder.preprocess.interpolation,
        "resize_mode": "shortest",
    }
    config = json.dumps({"model_cfg": model_cfg, "preprocess_cfg": settings}, indent=2)
    (folder / "open_clip_config.json").write_text(config + "\n")
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    return has_text


def open_clip_preprocess(visual: Any) -> Preprocess:  # noqa: ANN401 - open_clip is not typed
    """Build the preprocessing that an open_clip tower carries."""
    seen = visual.preprocess_cfg
    return Preprocess(
        visual.image_size, seen["mean"], seen["std"], interpolation=seen["interpolation"]
    )


def _convert(encoder: Encoder) -> tuple[dict[str, Any], dict[str, Tensor], bool]:
    """Return open_clip's model_cfg and state of a transformers encoder, with its text tower."""
    import open_clip

    vision = {n: t.cpu() for n, t in encoder.tower.state_dict().items()}
    source = _full_source(encoder.source)
    model_cfg = open_clip_config(encoder.tower_config, source)
    if source is not None:
        return model_cfg, open_clip_state(vision, source), True
    state = {n: torch.zeros_like(t) for n, t in open_clip.CLIP(**model_cfg).state_dict().items()}
    visual = vision_state_to_open_clip(vision, None)
    return model_cfg, state | {f"visual.{n}": t for n, t in visual.items()}, False


def _full_source(source: str) -> CLIPModel | None:
    """Load the full CLIP that an encoder came from; None if it was a vision tower alone.

    Raises:
        ConfigError: it is gone, or holds less than a full CLIP has.
    """
    try:
        if not isinstance(AutoConfig.from_pretrained(source), CLIPConfig):
            return None
    except OSError as error:
        raise ConfigError(
            f"The encoder's source {source!r}, which the export's text tower comes from, is gone; "
            "put it back."
        ) from error
    return load_whole(CLIPModel, source, source)
