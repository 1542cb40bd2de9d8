"""The CLIP encoder as plain tokens, through transformers; through open_clip: see `open_clip`.

    tokens = hidden_states[layer] without the class token, row by row on the patch grid

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = N + 1 positions (class first).
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from tove.backbones.clip.export import FORMATS, export_encoder
from tove.backbones.clip.open_clip import OpenCLIP
from tove.backbones.vit import load_whole, locate, output_of, own_preprocess, tower_of, unmasked
from tove.backbones.vit_encoder import ViTEncoder
from tove.config.validation import Range
from tove.registry import ENCODERS

__all__ = ["OpenCLIP", "TransformersCLIP"]


@ENCODERS.register_module()
class TransformersCLIP(ViTEncoder):
    """A CLIP vision tower of transformers.

    Args:
        pretrained: hub id, local folder or "pkg:PACKAGE/FOLDER" of a CLIPVisionModel or CLIPModel.
        image_size: input side in pixels; another than the native one interpolates positions.
        layer: index into hidden_states.

    Attributes:
        source: the folder or hub id that the weights came from.
        tower_config: of the vision tower, as the library has it; peft takes whatever has a `config`
            for a model of transformers.
    """

    library = "transformers"
    tower_class: ClassVar[type[CLIPVisionModel]] = CLIPVisionModel
    blocks_name = "model.vision_model.encoder.layers"
    attention_names = ("self_attn",)
    before_blocks = ("model.vision_model.embeddings.", "model.vision_model.pre_layrnorm.")
    lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    def __init__(
        self, pretrained: str, image_size: Annotated[int, Range(1)] | None = None, layer: int = -1
    ) -> None:
        super().__init__(pretrained, layer)
        self.source = locate(pretrained)
        whole = load_whole(self.tower_class, self.source, pretrained)
        self.tower_config = config = whole.config
        # transformers 5 has no `vision_model` in a CLIPVisionModel. Parameters keep the name that
        # checkpoints know.
        self.model = nn.ModuleDict({"vision_model": tower_of(whole)})
        sizes = config.hidden_size, config.image_size, config.patch_size
        self._resize(self._lay_out(config.num_hidden_layers, *sizes, image_size))
        self.preprocess = own_preprocess(self.source, self.image_size)
        self.eval()

    @property
    def tower(self) -> Any:  # noqa: ANN401 - another class in each version of transformers
        """The vision tower: embeddings, pre_layrnorm, encoder, post_layernorm."""
        return self.model["vision_model"]

    def _resize(self, side_in: int) -> None:
        """Give the model positions for another input size, as if it had been made for it."""
        embeddings, side_out = self.tower.embeddings, self.grid[0]
        table_PD = embeddings.position_embedding.weight.data
        num_positions = side_out**2 + 1
        embeddings.position_embedding = nn.Embedding(num_positions, self.width).to(table_PD.dtype)
        embeddings.position_embedding.weight.data = self._resized(table_PD, side_in)
        embeddings.position_ids = torch.arange(num_positions).expand((1, -1))
        embeddings.num_patches, embeddings.num_positions = side_out**2, num_positions
        embeddings.image_size = self.tower_config.image_size = self.image_size

    def hidden_states(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield what enters each block that runs and, last, what leaves the last, [B, 1 + N, D]."""
        tower = self.tower
        x_BPD = tower.pre_layrnorm(tower.embeddings(self.preprocess(images_BCHW)))
        yield x_BPD
        for block in tower.encoder.layers[: self.num_blocks]:
            x_BPD = output_of(block(x_BPD, **unmasked(block)))
            yield x_BPD

    def export(self, folder: str | Path, formats: Collection[str] = FORMATS) -> Path:
        """Write an ordinary CLIP checkpoint, see `tove.backbones.clip.export`."""
        return export_encoder(self, folder, formats)
