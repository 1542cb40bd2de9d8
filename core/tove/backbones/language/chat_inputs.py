"""Words and image tokens as the one sequence of embeddings that a language model reads.

Nothing here asks a device for a number: places and lengths are known to the host from shapes.

Shapes: B samples, L tokens of the longest, I images with n_i tokens, N tokens of all images
together, D language width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tove.backbones.language.chat_tokens import IMAGE_ID, Row
from tove.backbones.language.tokenization import pad_rows
from tove.modules.device import on_device

__all__ = ["ImageFeatures", "embed_rows", "flatten_images", "keep_images"]

ImageFeatures = Sequence[Tensor] | Tensor
"""[n_i, D] of each image, or [I, n, D] where all have as many."""


def flatten_images(image_features: ImageFeatures) -> tuple[Tensor, list[int]]:
    """Return all image tokens behind each other, [N, D], and the number of each image's."""
    if isinstance(image_features, Tensor):
        number, length = image_features.shape[:2]
        return image_features.flatten(0, 1), [length] * number
    if not image_features:
        raise ValueError("Give image features of shape [0, N, D] where no sample has an image.")
    return torch.cat(list(image_features)), [len(image) for image in image_features]


def keep_images(flat_ND: Tensor, lengths: Sequence[int], kept: Sequence[int]) -> Tensor:
    """Return the tokens of some of the images, in their order."""
    if len(kept) == len(lengths):
        return flat_ND
    parts = flat_ND.split(list(lengths))
    return torch.cat([flat_ND[:0], *(parts[i] for i in kept)])


def embed_rows(
    table: nn.Module,
    pad: int,
    rows: Sequence[Row],
    flat_ND: Tensor,
    side: Literal["right", "left"] = "right",
) -> tuple[Tensor, Tensor]:
    """Embed the words of rows and put image tokens where they belong.

    Args:
        table: the word embeddings.
        pad: id of the padding.
        rows: spread samples, see `lay_out`.
        flat_ND: tokens of the rows' images behind each other.
        side: of the padding.

    Returns:
        embeds_BLD, and mask_BL: 1 on tokens, 0 on padding.
    """
    device = flat_ND.device
    words = [[pad if token == IMAGE_ID else token for token in row.ids] for row in rows]
    ids_BL, mask_BL = pad_rows(words, pad, device, side=side)
    size = ids_BL.shape[1]
    places = []
    for b, row in enumerate(rows):
        start = b * size + (size - len(row.ids) if side == "left" else 0)
        places += [start + place for place in row.places()]
    embeds_BLD = table(ids_BL)
    # Also where there is no image: its empty features keep the projector in the backward pass.
    embeds_BLD = embeds_BLD.flatten(0, 1).index_copy(
        0, on_device(places, device), flat_ND.to(embeds_BLD.dtype)
    )
    return embeds_BLD.view(len(rows), size, -1), mask_BL
