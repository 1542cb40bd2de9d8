"""What a vision transformer is to every method: tokens on a grid, blocks by name, what trains.

    tokens = hidden_states[layer] without class and register tokens, row by row on the patch grid

`layer` counts as transformers' hidden_states do: 0 is what enters the first block, -1 what leaves
the last one, before the last norm. Blocks above it are kept but never run. Mind that LLaVA reads
`vision_feature_layer=-2` unless told otherwise.

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = prefix + N positions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tove.backbones.export_folder import teachers_of
from tove.backbones.preprocess import Preprocess
from tove.backbones.vit import (
    check_image_size,
    count_blocks,
    resize_positions,
    set_encoder_mode,
)

__all__ = ["ViTEncoder"]


class ViTEncoder(nn.Module):
    """A pretrained vision transformer of some library.

    A subclass loads the tower, calls `_lay_out`, and says in `hidden_states` how it runs.

    Attributes:
        pretrained: as it was given.
        teachers: terms of the experts that it has learned from, as dicts of `Terms`.
        library: whose format is its own.
        layer: index into hidden states.
        width: D, of a token.
        grid: of the tokens, (height, width).
        image_size: input side in pixels.
        num_blocks: how many run.
        num_prefix: tokens before the grid's.
        has_class_token: whether the first of these is a class token.
        preprocess: of images in [0, 1].
        lora_targets: names of a block's linear layers that LoRA adapts by default.
    """

    library: ClassVar[str]
    has_class_token: bool = True
    num_prefix: int = 1
    lora_targets: tuple[str, ...]
    preprocess: Preprocess
    # Where a subclass keeps its blocks, a block its attention, and what comes before the blocks.
    blocks_name: str
    attention_names: ClassVar[tuple[str, ...]]
    before_blocks: tuple[str, ...]
    unused: tuple[str, ...] = ()

    def __init__(self, pretrained: str, layer: int) -> None:
        super().__init__()
        self.pretrained, self.layer = pretrained, layer
        self.teachers = teachers_of(pretrained)

    def _lay_out(
        self, depth: int, width: int, native: int, patch_size: int, image_size: int | None
    ) -> int:
        """Take the tower's sizes, and return the side of the grid that it was made for.

        Args:
            depth: number of blocks.
            width: D.
            native: input side in pixels that the tower was made for.
            patch_size: in pixels.
            image_size: input side in pixels; None is the native one.

        Raises:
            ConfigError: no such layer, or patches do not tile the image.
        """
        self.width, self.num_blocks = width, count_blocks(self.layer, depth, self.pretrained)
        self.image_size = int(image_size or native)
        check_image_size(self.image_size, patch_size, self.pretrained)
        side = self.image_size // patch_size
        self.grid = (side, side)
        return native // patch_size

    def _resized(self, table_PD: Tensor, side_in: int) -> Tensor:
        """Interpolate a position table of another grid to this one."""
        return resize_positions(table_PD, side_in, self.grid[0], self.num_prefix)

    def hidden_states(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield what enters each block that runs and, last, what leaves the last, [B, P, D].

        Args:
            images_BCHW: [B, 3, H, W] of any size, in [0, 1].
        """
        raise NotImplementedError

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1] as the class token, if there is one, and the grid's.

        Returns:
            [B, 1 + N, D], or [B, N, D]; register tokens are left out.
        """
        x_BPD = self._last(images_BCHW)
        if self.num_prefix < 2:
            return x_BPD
        return torch.cat([x_BPD[:, :1], x_BPD[:, self.num_prefix :]], dim=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1], [B, 3, H, W] of any size, as tokens [B, N, D]."""
        return self._last(images_BCHW)[:, self.num_prefix :]

    def _last(self, images_BCHW: Tensor) -> Tensor:
        for x_BPD in self.hidden_states(images_BCHW):
            last_BPD = x_BPD  # of those before, nothing is kept
        return last_BPD

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the blocks that run, by name."""
        for index in range(self.num_blocks):
            name = f"{self.blocks_name}.{index}"
            yield name, self.get_submodule(name)

    def attentions(self) -> Iterator[nn.Module]:
        """Yield the attention of each block that runs."""
        for _, block in self.blocks():
            children = dict(block.named_children())
            yield next(children[name] for name in self.attention_names if name in children)

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the tokens depend on: not those above `layer`."""
        run = (*(f"{name}." for name, _ in self.blocks()), *self.before_blocks)
        for name, parameter in self.named_parameters():
            if name.startswith(run) and not name.startswith(self.unused):
                yield name, parameter

    def train(self, mode: bool = True) -> Self:
        """Set the mode of LoRA inside; the tower itself stays in eval, see `set_encoder_mode`.

        In train mode towers of open_clip drop patches and DINOv3 moves its positions at random.
        """
        set_encoder_mode(self, mode)
        return self

    def export(self, folder: str | Path) -> Path:
        """Write an ordinary checkpoint of the tower's own library, whole or not at all.

        Raises:
            ConfigError: the encoder has LoRA layers, or the folder holds something else.
            CheckpointError: the disk is full or the folder cannot be written.
        """
        raise NotImplementedError

    @staticmethod
    def read_export(folder: Path) -> dict[str, Any]:
        """Return the arguments that read what `export` wrote to a folder."""
        return {"pretrained": str(folder)}
