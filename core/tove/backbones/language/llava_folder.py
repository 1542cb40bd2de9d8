"""One folder that stock transformers loads as Llava or LlavaNext, without this package.

    LlavaForConditionalGeneration.from_pretrained(folder)       (LlavaNext... with tiles)
    AutoProcessor.from_pretrained(folder)

Inside: the encoder as CLIP's vision tower, the projector, the language model with LoRA folded in,
the layer that the tokens come from, processor, chat template, and a card with the teachers' terms.
Before it is put in its place the folder is read back by stock transformers: no key may be missing,
a conversation must give the same token ids, and an image and a question the same logits.

Shapes: V views, S side of a view in pixels, N tokens of a view, D language width.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from huggingface_hub import save_torch_state_dict
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from tove.atomic_io import writing
from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.experts.licences import Terms
from tove.backbones.language.chat import ChatLanguageModel
from tove.backbones.language.chat_formats import IMAGE
from tove.backbones.language.chat_tokens import IMAGE_ID, lay_out
from tove.backbones.language.image_projector import ImageProjector
from tove.backbones.language.llava_state import language_state, vision_state, with_token_rows
from tove.backbones.language.llava_text import folder_tokenizer, model_card
from tove.errors import ConfigError
from tove.modules.tiles import best_grid, pack_views

__all__ = ["LlavaParts", "write_llava_folder"]

# How far logits may lie apart, in their standard deviations: at most, and on average (rms) where
# weights were rounded to 16 bits.
_TOLERANCE, _ROUNDED = 1e-4, 0.3
_RESAMPLE = {"bilinear": 2, "bicubic": 3}


@dataclass(frozen=True, slots=True)
class LlavaParts:
    """What a Llava model is made of.

    Attributes:
        encoder: CLIP, LoRA folded in.
        projector: from its tokens to the language model's.
        language: the chat model, with LoRA or without.
        view: how images became views in training: "crop", "pad" or "anyres".
        grids: rows and columns of tiles that "anyres" chose from.
        newline_D: the token after each row of tiles; "anyres" alone.
    """

    encoder: TransformersCLIP
    projector: ImageProjector
    language: ChatLanguageModel
    view: Literal["crop", "pad", "anyres"] = "pad"
    grids: Sequence[tuple[int, int]] = ()
    newline_D: Tensor | None = None

    @property
    def name(self) -> str:
        """Of the classes of transformers: Llava or LlavaNext."""
        return "LlavaNext" if self.view == "anyres" else "Llava"

    @property
    def pinpoints(self) -> list[list[int]]:
        """The grids in pixels."""
        side = self.encoder.image_size
        return [[rows * side, columns * side] for rows, columns in self.grids]


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
    _check(parts, folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
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
            (new / "README.md").write_text(card)
            if check:
                every = (parts.encoder, parts.projector, parts.language)
                kinds = {p.dtype for part in every for p in part.parameters()} | {written}
                _compare(parts, new, exact=kinds == {torch.float32})
            new.chmod(0o777 & ~_umask())  # mkdtemp lets none but the owner in
            if folder.exists():
                folder.rmdir()
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _check(parts: LlavaParts, folder: Path) -> None:
    if not isinstance(parts.encoder, TransformersCLIP):
        raise ConfigError(
            f"A {type(parts.encoder).__name__} is no vision tower of stock Llava; use "
            "TransformersCLIP, or read the transformers folder of an export with it."
        )
    if any("lora_" in name for name, _ in parts.encoder.named_parameters()):
        raise ConfigError(
            "The encoder has LoRA layers, which no stock model would load; fold them in first."
        )
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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name another folder for the model.")


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
        vision_config=encoder.model.config.to_dict(),
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
    tokenizer.save_pretrained(folder)
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
            "patch_size": encoder.model.config.patch_size,
            "num_additional_image_tokens": 1,  # CLIP's class token
            "vision_feature_select_strategy": "default",
        },
    )
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template)


@torch.no_grad()
def _compare(parts: LlavaParts, folder: Path, exact: bool) -> None:
    """Read a folder back with stock transformers and ask it about an image of noise.

    Args:
        parts: that were written.
        folder: that they were written to.
        exact: no weight was rounded.

    Raises:
        ConfigError: it has other keys, token ids or logits.
    """
    model_class = getattr(transformers, f"{parts.name}ForConditionalGeneration")
    stock, loaded = model_class.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loaded[kind]:
            raise ConfigError(
                f"Stock transformers {transformers.__version__} finds {len(loaded[kind])} {kind} "
                f"in the written folder, first {sorted(loaded[kind])[0]!r}, so nothing was kept; "
                "the encoder or the language model has something that Llava does not know."
            )
    processor = transformers.AutoProcessor.from_pretrained(folder)
    height, width = parts.encoder.image_size, parts.encoder.image_size * 2
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    question = {"from": "human", "value": f"{IMAGE}\nWhat is on the mat?"}
    content = [{"type": "image"}, {"type": "text", "text": "What is on the mat?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=Image.fromarray(noise), text=text, return_tensors="pt")
    language = _float_on_cpu(parts.language)
    features = _features(parts, inputs["pixel_values"], (height, width))
    row, _ = lay_out(language.text.prompt([question], 1), [len(features)], language.max_tokens)
    image = processor.tokenizer.convert_tokens_to_ids(IMAGE)
    ids = [image if token == IMAGE_ID else token for token in row.ids]
    if inputs["input_ids"][0].tolist() != ids:
        raise ConfigError(
            "Stock transformers reads a question about an image as other tokens than training "
            f"({inputs['input_ids'].shape[1]} instead of {len(ids)}), so nothing was kept. Please "
            "report it with the name of the language model."
        )
    theirs = stock.eval()(**inputs).logits[0]
    ours = language.logits([features], [{"conversations": [question], "image_paths": [""]}])[0]
    theirs = theirs[:, : ours.shape[1]]
    apart = (theirs - ours) / ours.std()
    if exact:
        difference, limit = apart.abs().max().item(), _TOLERANCE
    else:  # rounded weights: the largest of many errors says little, another tower gives about 1
        difference, limit = apart.square().mean().sqrt().item(), _ROUNDED
    if not difference < limit:
        raise ConfigError(
            f"The written folder gives other logits than the model in memory (by {difference:.1e} "
            "of their standard deviation), so nothing was kept. Please report it with the names of "
            "encoder and language model."
        )


def _features(parts: LlavaParts, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the image tokens that training gives the language model for a processor's pixels."""
    encoder = _float_on_cpu(parts.encoder)
    seen = encoder.preprocess
    images_VCHW = pixels.flatten(0, -4) * seen.std + seen.mean
    tokens_VND = _float_on_cpu(parts.projector)(encoder(images_VCHW))
    if parts.newline_D is None:
        return tokens_VND[0]
    side = parts.encoder.image_size
    height, width = best_grid(size, [(h, w) for h, w in parts.pinpoints])
    newline_D = parts.newline_D.detach().float().cpu()
    return pack_views(tokens_VND, newline_D, size, (height // side, width // side), encoder.grid)


def _float_on_cpu(module: Any) -> Any:  # noqa: ANN401
    """Return a module in float32 on the CPU and in eval, a copy where it is not so already."""
    where = {(p.device.type, p.dtype) for p in module.parameters()}
    if where != {("cpu", torch.float32)}:
        module = deepcopy(module).cpu().float()
    return module if not module.training else deepcopy(module).eval()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
