"""A written Llava folder, read back by stock transformers and compared with the model in memory.

Shapes: V views, N tokens of a view, T tokens of an image, D language width.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from tove.backbones.language.chat_formats import IMAGE
from tove.backbones.language.chat_tokens import IMAGE_ID, lay_out
from tove.backbones.language.llava_parts import LlavaParts
from tove.errors import ConfigError
from tove.modules.tiles import best_grid, pack_views

__all__ = ["compare_with_stock"]

# How far logits may lie apart, in their standard deviations: at most, and on average (rms) where
# weights were rounded to 16 bits.
_TOLERANCE, _ROUNDED = 1e-4, 0.3


@torch.no_grad()
def compare_with_stock(parts: LlavaParts, folder: Path, exact: bool) -> None:
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
