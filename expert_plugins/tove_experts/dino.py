"""DINOv2, DINOv2 with registers and DINOv3: the patch tokens of one block.

    t_n = norm(x^l_n)        x^l: hidden state l; norm: the model's final layer norm

The class token and the registers are dropped. Every layer goes through the final norm, as in
DINOv2's own `get_intermediate_layers` and in transformers' backbone classes, so that tokens of any
depth have one scale. The last layer is the default: its patch tokens are what the linear probes of
both papers read for segmentation and depth. Blocks behind the chosen one are cut off: they cost
neither time nor memory.

Shapes: B batch, C = 3 channels, H x W the image, N = h * w patches, T = N + the class token and
registers before them, D width, d the width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_experts.catalogue.dino import num_blocks_read
from tove_experts.exposed import build_model
from tove_plugins import ExpertSpec

__all__ = ["DinoExpert"]

CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}


class DinoExpert(nn.Module):
    """Normalised images [B, 3, H, W] -> patch tokens [B, h*w, D].

    Args:
        spec: What this build takes and gives, as `catalogue.dino.resolve` says.
        weights: A folder that transformers wrote; None for random ones.
        config: What config.json holds of the default weights; all of it for random ones.
        layer: Which hidden state: 0 the patch embeddings, k the output of block k, -1 the last.
        image_size: One side or (height, width) in pixels, to be divided by the patch. It stands in
            the spec; the model interpolates its positions to whatever image comes.

    Raises:
        ValueError: There is no such layer, or the weights are of another model.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        config: Mapping[str, Any],
        layer: int = -1,
        image_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        model_type = config["model_type"]
        model: Any = build_model(CLASSES[model_type], weights, config)
        # transformers 5 puts DINOv3's blocks into a part of their own, `model`.
        trunk = getattr(model, "model", model) if model_type == "dinov3_vit" else model.encoder
        trunk.layer = trunk.layer[: num_blocks_read(layer, len(trunk.layer))]
        if model_type == "dinov3_vit":
            model.rope_embeddings = RotaryPositions(model.config)
        self.model = model
        self.num_prefix = 1 + getattr(model.config, "num_register_tokens", 0)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the patch tokens [B, N, D]."""
        hidden_BTD = self.model(pixel_values=images_BCHW).last_hidden_state
        return hidden_BTD[:, self.num_prefix :]


class RotaryPositions(nn.Module):
    """DINOv3's rotary positions in eval mode, as DINOv3ViTRopePositionEmbedding gives them.

    The library's enters an autocast region, which the "meta" device does not have, and keeps its
    frequencies in a buffer, which a cast of the expert rounds. Here they are computed in float32
    each time, from the image's size alone.

    Args:
        config: The model's config.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.patch, self.base = config.patch_size, config.rope_theta
        self.head_dim = config.hidden_size // config.num_attention_heads

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Give cosine and sine [N, d] of the patches' angles, in the images' dtype."""
        settings: Any = {"device": images_BCHW.device, "dtype": torch.float32}
        axes = []
        for side in images_BCHW.shape[-2:]:
            cells = side // self.patch
            axes.append(2 * (torch.arange(cells, **settings) + 0.5) / cells - 1)  # in [-1, 1]
        centres_N2 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
        frequencies = 1 / self.base ** torch.arange(0, 1, 4 / self.head_dim, **settings)
        angles_Nd = (2 * math.pi * centres_N2[:, :, None] * frequencies).flatten(1).tile(2)
        return angles_Nd.cos().to(images_BCHW.dtype), angles_Nd.sin().to(images_BCHW.dtype)
