"""The CLIP encoder as plain tokens, through transformers; through open_clip: see `open_clip`.

    tokens = hidden_states[layer] without the class token, row by row on the patch grid

`layer` counts as transformers' hidden_states do: 0 is what enters the first block, -1 what leaves
the last one, before post-layernorm. Blocks above it are kept but never run. Mind that LLaVA reads
`vision_feature_layer=-2` unless told otherwise.

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = N + 1 positions (class first).
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from tove.backbones.clip.export import FORMATS, export_encoder
from tove.backbones.clip.open_clip import OpenCLIP
from tove.backbones.vit import (
    check_image_size,
    count_blocks,
    last_of,
    load_whole,
    locate,
    output_of,
    own_preprocess,
    resize_positions,
    set_encoder_mode,
    unmasked,
)
from tove.registry import ENCODERS

__all__ = ["OpenCLIP", "TransformersCLIP", "check_image_size", "resize_positions"]


@ENCODERS.register_module()
class TransformersCLIP(nn.Module):
    """A CLIP vision tower of transformers.

    Args:
        pretrained: hub id, local folder or "pkg:PACKAGE/FOLDER" of a CLIPVisionModel or CLIPModel.
        image_size: input side in pixels; another than the native one interpolates positions.
        layer: index into hidden_states.

    Attributes:
        pretrained: as it was given.
        source: the folder or hub id that the weights came from.
        tower_config: of the vision tower, as the library has it; peft takes whatever has a `config`
            for a model of transformers.
        width: of a token.
        grid: of the tokens, (height, width).
        image_size: input side in pixels.
        library: whose format is its own.
        has_class_token: whether `encode` gives one before the grid's.
    """

    library = "transformers"
    has_class_token = True

    def __init__(self, pretrained: str, image_size: int | None = None, layer: int = -1) -> None:
        super().__init__()
        self.pretrained, self.source = pretrained, locate(pretrained)
        whole = load_whole(CLIPVisionModel, self.source, pretrained)
        self.tower_config = config = whole.config
        # transformers 5 has no `vision_model` in a CLIPVisionModel. Parameters keep the name that
        # checkpoints know.
        self.model = nn.ModuleDict({"vision_model": getattr(whole, "vision_model", whole)})
        self.layer, self.width = layer, config.hidden_size
        self.num_blocks = count_blocks(layer, config.num_hidden_layers, pretrained)
        self.image_size = int(image_size or config.image_size)
        check_image_size(self.image_size, config.patch_size, pretrained)
        side = self.image_size // config.patch_size
        self.grid = (side, side)
        self._resize(config.image_size // config.patch_size, side)
        self.preprocess = own_preprocess(self.source, self.image_size)
        self.eval()

    @property
    def tower(self) -> Any:  # noqa: ANN401 - another class in each version of transformers
        """The vision tower: embeddings, pre_layrnorm, encoder, post_layernorm."""
        return self.model["vision_model"]

    def _resize(self, side_in: int, side_out: int) -> None:
        """Give the model positions for another input size, as if it had been made for it."""
        embeddings = self.tower.embeddings
        table_PD = embeddings.position_embedding.weight.data
        num_positions = side_out**2 + 1
        embeddings.position_embedding = nn.Embedding(num_positions, self.width).to(table_PD.dtype)
        embeddings.position_embedding.weight.data = resize_positions(table_PD, side_in, side_out)
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

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1] as the class token and the grid's, [B, 1 + N, D]."""
        return last_of(self.hidden_states(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1], [B, 3, H, W] of any size, as tokens [B, N, D]."""
        return self.encode(images_BCHW)[:, 1:]

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the blocks that run, by name."""
        for index in range(self.num_blocks):
            name = f"model.vision_model.encoder.layers.{index}"
            yield name, self.get_submodule(name)

    def attentions(self) -> Iterator[nn.Module]:
        """Yield the attention of each block that runs; it has q_proj, k_proj and v_proj."""
        for _, block in self.blocks():
            yield block.get_submodule("self_attn")

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the tokens depend on: not those above `layer`."""
        run = tuple(f"{name}." for name, _ in self.blocks())
        before = ("model.vision_model.embeddings.", "model.vision_model.pre_layrnorm.")
        yield from ((n, p) for n, p in self.named_parameters() if n.startswith(run + before))

    def train(self, mode: bool = True) -> "TransformersCLIP":
        """Set the mode of LoRA inside; the tower itself stays in eval, see `set_encoder_mode`."""
        set_encoder_mode(self, mode)
        return self

    def export(self, folder: str | Path, formats: Collection[str] = FORMATS) -> Path:
        """Write an ordinary CLIP checkpoint, see `tove.backbones.clip.export`."""
        return export_encoder(self, folder, formats)

    @staticmethod
    def read_export(folder: Path) -> dict[str, Any]:
        """Return the arguments that read what `export` wrote to a folder."""
        return {"pretrained": str(folder)}

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of a block's linear layers that LoRA adapts by default."""
        return ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
