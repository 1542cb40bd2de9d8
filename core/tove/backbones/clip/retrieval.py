"""Zero-shot retrieval: do a CLIP's or SigLIP's captions still find their images, and they them?

    R@1 = share of rows whose best match in  e_image . e_text^T  is their own       e normalised

A caption that several images share is right for each of them. The merge moves the image tower
alone; what that costs in retrieval is the difference between the source and its export.

Shapes: S images with a caption each, B of them in a batch, E width of the shared space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.backbones.clip.export import open_clip_preprocess
from tove.backbones.clip.text_side import find_tokenizer, mark_ends
from tove.backbones.transformers_vit import TransformersViT
from tove.backbones.vit import load_whole, own_preprocess

__all__ = ["Encoder", "ZeroShot", "recall_at_1", "retrieval_of_export", "zero_shot"]

_BATCH = 64
Encoder = TransformersCLIP | TransformersViT | OpenCLIP


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Both towers of a CLIP.

    Attributes:
        images: of [B, 3, H, W] in [0, 1] of any size: [B, E].
        texts: of B captions: [B, E].
    """

    images: Callable[[Tensor], Tensor]
    texts: Callable[[Sequence[str]], Tensor]


def zero_shot(source: str | Path | Encoder) -> ZeroShot | None:
    """Load both towers.

    Args:
        source: a folder of transformers or of open_clip, or an encoder, whose source is meant: the
            CLIP or SigLIP it came from, before anything trained.

    Returns:
        The towers; None where there is no text tower or no tokenizer that fits it.
    """
    if isinstance(source, OpenCLIP):
        return _of_open_clip(source)
    if not isinstance(source, str | Path):
        return _of_transformers(source.source)
    if (Path(source) / "open_clip_config.json").is_file():
        return _of_open_clip(OpenCLIP(str(source)))
    return _of_transformers(str(source))


def _of_transformers(source: str) -> ZeroShot | None:
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, CLIPConfig | SiglipConfig):
        return None
    tokenizer = find_tokenizer(source)
    if tokenizer is None or len(tokenizer) > config.text_config.vocab_size:  # another model's
        return None
    return (_of_clip if isinstance(config, CLIPConfig) else _of_siglip)(source, tokenizer)


def _of_siglip(source: str, tokenizer: Any) -> ZeroShot:  # noqa: ANN401
    model: Any = load_whole(SiglipModel, source, source).eval()
    positions = model.config.text_config.max_position_embeddings
    preprocess = own_preprocess(
        source, model.config.vision_config.image_size, (0.5,) * 3, (0.5,) * 3
    )

    def texts(captions: Sequence[str]) -> Tensor:
        # The last position is read, which the padding reaches in training.
        how = dict(padding="max_length", truncation=True, max_length=positions)
        tokens = tokenizer(list(captions), return_tensors="pt", **how)
        return model.text_model(tokens.input_ids).pooler_output

    def images(images_BCHW: Tensor) -> Tensor:
        return model.vision_model(preprocess(images_BCHW)).pooler_output

    return ZeroShot(images, texts)


def _of_clip(source: str, tokenizer: Any) -> ZeroShot:  # noqa: ANN401
    model: Any = load_whole(CLIPModel, source, source).eval()
    text = model.config.text_config
    mark_ends(tokenizer, None if text.eos_token_id == 2 else text.eos_token_id)
    preprocess = own_preprocess(source, model.config.vision_config.image_size)

    def texts(captions: Sequence[str]) -> Tensor:
        tokens = tokenizer(
            list(captions),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=text.max_position_embeddings,
        )
        read = model.text_model(tokens.input_ids, attention_mask=tokens.attention_mask)
        return model.text_projection(read.pooler_output)

    def images(images_BCHW: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(preprocess(images_BCHW)).pooler_output)

    return ZeroShot(images, texts)


def _of_open_clip(encoder: OpenCLIP) -> ZeroShot | None:
    import open_clip

    model = encoder.load_source().eval()
    if model.vocab_size == 1:  # an export's placeholder
        return None
    tokenizer = open_clip.get_tokenizer(encoder.source[0])
    wrapped = getattr(tokenizer, "tokenizer", None)  # one of transformers
    if (tokenizer.vocab_size if wrapped is None else len(wrapped)) > model.vocab_size:
        return None  # another model's
    if wrapped is not None:
        mark_ends(wrapped, encoder.model_cfg()["text_cfg"].get("eos_id"))
    preprocess = open_clip_preprocess(model.visual)

    def texts(captions: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(captions)))

    def images(images_BCHW: Tensor) -> Tensor:
        return model.encode_image(preprocess(images_BCHW))

    return ZeroShot(images, texts)


@torch.no_grad()
def recall_at_1(towers: ZeroShot, images_SCHW: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Measure retrieval both ways.

    Args:
        towers: of `zero_shot`.
        images_SCHW: in [0, 1].
        captions: one an image.

    Returns:
        R@1 as `image_to_text` and `text_to_image`, and `chance` of the latter.
    """
    batches = range(0, len(captions), _BATCH)
    image_SE = torch.cat([towers.images(images_SCHW[i : i + _BATCH]) for i in batches]).float()
    text_SE = torch.cat([towers.texts(captions[i : i + _BATCH]) for i in batches]).float()
    likeness_SS = F.normalize(image_SE, dim=-1) @ F.normalize(text_SE, dim=-1).T
    known = {caption: index for index, caption in enumerate(captions)}
    caption_S = torch.tensor([known[caption] for caption in captions])

    def share(best_S: Tensor) -> float:
        return (caption_S[best_S] == caption_S).float().mean().item()

    right_SS = caption_S[:, None] == caption_S
    return {
        "image_to_text": share(likeness_SS.argmax(1)),
        "text_to_image": share(likeness_SS.argmax(0)),
        "chance": right_SS.float().mean().item(),
    }


def retrieval_of_export(
    encoder: Encoder,
    folder: Path,
    images_SCHW: Tensor,
    captions: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Measure what a merge cost in retrieval.

    Args:
        encoder: as it was before the merge, or any that names the same source.
        folder: the export.
        images_SCHW: in [0, 1].
        captions: one an image.

    Returns:
        R@1 of the `source` and of each format of the export; one without a text tower is left out.
    """
    towers = {
        "source": zero_shot(encoder),
        "transformers": zero_shot(folder) if (folder / "config.json").is_file() else None,
        "open_clip": zero_shot(folder / "open_clip") if (folder / "open_clip").is_dir() else None,
    }
    return {
        name: recall_at_1(both, images_SCHW, captions)
        for name, both in towers.items()
        if both is not None
    }
