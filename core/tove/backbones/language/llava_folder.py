"""One folder that stock transformers loads as Llava or LlavaNext, without this package.

    LlavaForConditionalGeneration.from_pretrained(folder)       (LlavaNext... with tiles)
    AutoProcessor.from_pretrained(folder)

Inside: the encoder as CLIP's vision tower, the projector, the language model with LoRA folded in,
the layer that the tokens come from, processor, chat template, and a card with the teachers' terms.
Before it is put in its place the folder is read back by stock transformers: no key may be missing,
a conversation must give the same token ids, and an image and a question the same logits.
"""

import json
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from transformers import GenerationConfig

from tove.atomic_io import temporary_folder, writing
from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.experts.licences import Terms
from tove.backbones.language.chat_formats import IMAGE
from tove.backbones.language.llava_check import compare_with_stock
from tove.backbones.language.llava_parts import LlavaParts
from tove.backbones.language.llava_state import (
    check_head,
    language_state,
    vision_state,
    with_token_rows,
)
from tove.backbones.language.llava_text import folder_tokenizer, model_card
from tove.backbones.tokenizer_files import write_tokenizer
from tove.errors import ConfigError

__all__ = ["LlavaParts", "check_parts", "write_llava_folder"]

_RESAMPLE = {"bilinear": 2, "bicubic": 3}


def write_llava_folder(
    parts: LlavaParts,
    folder: str | Path,
    title: str = "LLaVA with vision experts",
    teachers: Sequence[Terms] = (),
    licence: str | None = None,
    dtype: torch.dtype | None = None,
    check: bool = True,
) -> Path:
    """Write a folder whole or not at all.

    Args:
        parts: of the model; they stay as they are.
        folder: where to; it must not be there yet, or be empty.
        title: of the model card.
        teachers: the experts that taught the encoder, with their terms, for the card.
        licence: identifier of the licence that you publish it under, for the card.
        dtype: of the written weights; None is the language model's.
        check: read it back with stock transformers and compare; needs the model's memory again.

    Returns:
        The folder.

    Raises:
        ConfigError: the parts do not make a stock model, the folder is not empty, or what was read
            back is not what was written.
        CheckpointError: the disk is full or the folder cannot be written.
    """
    folder = Path(folder).absolute()
    check_parts(parts)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name another folder for the model.")
    with writing(folder), temporary_folder(folder) as new:
        tokenizer = folder_tokenizer(parts.language)
        _write_processor(parts, tokenizer, new)
        written = dtype or parts.language.lm.dtype
        _write_model(parts, tokenizer, new, written)
        card = model_card(
            title,
            f"{parts.name}ForConditionalGeneration",
            parts.encoder.layer,
            licence,
            teachers,
            [
                ("Vision encoder from", parts.encoder.pretrained),
                ("Language model from", parts.language.pretrained),
            ],
        )
        (new / "README.md").write_text(card, "utf-8")
        if check:
            every = (parts.encoder, parts.projector, parts.language)
            kinds = {p.dtype for part in every for p in part.parameters()} | {written}
            compare_with_stock(parts, new, exact=kinds == {torch.float32})
        new.chmod(0o777 & ~_umask())  # mkdtemp lets none but the owner in
        if folder.exists():
            folder.rmdir()
        new.rename(folder)
    return folder


def check_parts(parts: LlavaParts) -> None:
    """Check that parts make a stock model, before they are trained.

    Raises:
        ConfigError: they do not.
    """
    if not isinstance(parts.encoder, TransformersCLIP):
        raise ConfigError(
            f"A {type(parts.encoder).__name__} is no vision tower of stock Llava; use "
            "TransformersCLIP, or read the transformers folder of an export with it."
        )
    if any("lora_" in name for name, _ in parts.encoder.named_parameters()):
        raise ConfigError(
            "The encoder has LoRA layers, which no stock model would load; fold them in first."
        )
    check_head(parts.language.lm)
    if (parts.view == "anyres") != bool(parts.grids):
        raise ConfigError(
            f"The view is {parts.view!r} with the grids {list(parts.grids)}; 'anyres' needs the "
            "rows and columns of tiles that it was trained with, the other views have none."
        )
    if (parts.view == "anyres") != (parts.newline_D is not None):
        raise ConfigError(
            f"The view is {parts.view!r}, and the newline token is "
            f"{'missing' if parts.newline_D is None else 'given'}; 'anyres' alone has one."
        )


def _write_model(
    parts: LlavaParts,
    tokenizer: Any,  # noqa: ANN401
    folder: Path,
    dtype: torch.dtype,
) -> None:
    """Write config.json, generation_config.json and the weights."""
    language, encoder = parts.language, parts.encoder
    state = {**vision_state(encoder.model), **language_state(language.lm)}
    for name, tensor in parts.projector.state_dict().items():
        state[f"multi_modal_projector.{name}"] = tensor.detach()
    if parts.newline_D is not None:
        state["image_newline"] = parts.newline_D.detach()
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    words = language.lm.get_input_embeddings().weight
    table = next(name for name, tensor in state.items() if tensor.data_ptr() == words.data_ptr())
    num_rows = max(len(words), len(tokenizer))
    with_token_rows(state, table, num_rows)
    state = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_torch_state_dict(state, folder, max_shard_size="5GB", metadata={"format": "pt"})
    text = deepcopy(language.lm.config)
    text.vocab_size = num_rows
    tied = "language_model.lm_head.weight" not in state
    text.tie_word_embeddings = tied
    config_class = getattr(transformers, f"{parts.name}Config")
    config = config_class(
        vision_config=encoder.tower_config.to_dict(),
        text_config=text.to_dict(),
        image_token_index=image,
        vision_feature_layer=encoder.layer,
        vision_feature_select_strategy="default",
        image_seq_length=encoder.grid[0] * encoder.grid[1],
        tie_word_embeddings=tied,
        **({"image_grid_pinpoints": parts.pinpoints} if parts.grids else {}),
    )
    config.architectures = [f"{parts.name}ForConditionalGeneration"]
    config.dtype = config.text_config.dtype = config.vision_config.dtype = dtype
    config.save_pretrained(folder)
    GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=language.stop_ids,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)


def _write_processor(parts: LlavaParts, tokenizer: Any, folder: Path) -> None:  # noqa: ANN401
    """Write the tokenizer with its template, and the image processor."""
    write_tokenizer(tokenizer, folder)
    encoder = parts.encoder
    side, seen = encoder.image_size, encoder.preprocess
    settings: dict[str, Any] = {
        "do_resize": True,
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "resample": _RESAMPLE[seen.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": seen.mean.flatten().tolist(),
        "image_std": seen.std.flatten().tolist(),
        "do_convert_rgb": True,
        "processor_class": f"{parts.name}Processor",
        "image_processor_type": "CLIPImageProcessor",
    }
    if parts.view == "pad":
        settings |= {"do_pad": True, "image_processor_type": "LlavaImageProcessor"}
    elif parts.view == "anyres":
        settings |= {
            "do_pad": True,
            "image_grid_pinpoints": parts.pinpoints,
            "image_processor_type": "LlavaNextImageProcessor",
        }
    _write_json(folder / "preprocessor_config.json", settings)
    _write_json(
        folder / "processor_config.json",
        {
            "processor_class": f"{parts.name}Processor",
            "image_token": IMAGE,
            "patch_size": encoder.tower_config.patch_size,
            "num_additional_image_tokens": 1,  # CLIP's class token
            "vision_feature_select_strategy": "default",
        },
    )
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template, "utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
