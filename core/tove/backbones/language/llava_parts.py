"""What a Llava model is made of, as it is in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.language.chat import ChatLanguageModel
from tove.backbones.language.image_projector import ImageProjector

__all__ = ["LlavaParts"]


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
