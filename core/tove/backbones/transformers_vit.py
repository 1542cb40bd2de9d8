"""Students beyond CLIP: vision transformers of transformers as plain tokens, and back into folders.

    tokens = hidden_states[layer] without class and register tokens, row by row on the patch grid

| family                              | before the grid       | positions                          |
|-------------------------------------|-----------------------|------------------------------------|
| SigLIP, SigLIP 2 of a fixed size    | nothing               | a table, interpolated once         |
| DINOv2, with registers or without   | class, registers      | a table, interpolated at each call |
| DINOv3                              | class, four registers | rotary, of any size                |

`layer` counts as the library's hidden_states do, before the last norm: 0 is what enters the first
block, -1 what leaves the last. An export is the family's own checkpoint; SigLIP's holds the text
tower where its source does.

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = prefix + N positions.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from tove.backbones.clip.text_side import find_tokenizer
from tove.backbones.export_folder import image_processor, same_tokens, write_whole
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
from tove.errors import ConfigError
from tove.registry import ENCODERS

__all__ = ["TransformersViT"]


@dataclass(frozen=True, slots=True)
class Family:
    """Where one family keeps what all of them have.

    Attributes:
        model: class of the vision tower in transformers.
        whole: class of the model that a source may be and that holds the tower; None if none does.
        processor: class of its image processor.
        crops: resize the shorter edge and crop, instead of squeezing to a square.
        statistics: mean and std where the folder has no image processor.
        blocks: names, in the tower, of the list of blocks; transformers 4 and 5 may differ.
        unused: parameters of the embeddings that no token depends on.
        lora: names of a block's linear layers, in transformers 4 and 5.
    """

    model: str
    whole: str | None
    processor: str
    crops: bool
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    blocks: tuple[str, ...]
    unused: tuple[str, ...]
    lora: tuple[str, ...]


_HALF = ((0.5,) * 3, (0.5,) * 3)
_IMAGENET = (tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD))
_SIGLIP = Family(
    "SiglipVisionModel", "SiglipModel", "SiglipImageProcessor", False, _HALF,
    ("encoder.layers",), (), ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
)  # fmt: skip
_DINO2_LINEAR = (
    "query", "key", "value", "dense", "weights_in", "weights_out",  # transformers 4
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",  # 5
    "fc1", "fc2",
)  # fmt: skip
_FAMILIES: Mapping[str, Family] = {
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": Family(
        "Dinov2Model", None, "BitImageProcessor", True, _IMAGENET,
        ("encoder.layer",), ("mask_token",), _DINO2_LINEAR,
    ),
    "dinov2_with_registers": Family(
        "Dinov2WithRegistersModel", None, "BitImageProcessor", True, _IMAGENET,
        ("encoder.layer",), ("mask_token",), _DINO2_LINEAR,
    ),
    "dinov3_vit": Family(
        "DINOv3ViTModel", None, "DINOv3ViTImageProcessorFast", False, _IMAGENET,
        ("layer", "model.layer"), ("mask_token",),
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
}  # fmt: skip


@ENCODERS.register_module()
class TransformersViT(nn.Module):
    """A SigLIP, SigLIP 2, DINOv2 or DINOv3 tower of transformers.

    Args:
        pretrained: hub id, local folder or "pkg:PACKAGE/FOLDER".
        image_size: input side in pixels; None is that of the model's config, 518 for DINOv2.
        layer: index into hidden_states.

    Attributes:
        pretrained: as it was given.
        source: the folder or hub id that the weights came from.
        tower_config: of the vision tower, as the library has it; peft takes whatever has a `config`
            for a model of transformers.
        library: whose format is its own.
        width: of a token.
        grid: of the tokens, (height, width).
        image_size: input side in pixels.
        num_prefix: tokens before the grid's.
        has_class_token: whether the first of these is a class token.

    Raises:
        ConfigError: no such folder, or of another family.
    """

    library = "transformers"

    def __init__(self, pretrained: str, image_size: int | None = None, layer: int = -1) -> None:
        super().__init__()
        self.pretrained, self.source = pretrained, locate(pretrained)
        self.family = _family_of(self.source, pretrained)
        whole = load_whole(getattr(transformers, self.family.model), self.source, pretrained)
        self.tower: Any = getattr(whole, "vision_model", whole)
        self.tower_config = config = whole.config
        self.has_class_token = self.family is not _SIGLIP
        registers = getattr(config, "num_register_tokens", 0)
        self.num_prefix = 1 + registers if self.has_class_token else 0
        self.layer, self.width = layer, config.hidden_size
        self.num_blocks = count_blocks(layer, config.num_hidden_layers, pretrained)
        self.image_size = int(image_size or config.image_size)
        check_image_size(self.image_size, config.patch_size, pretrained)
        self.grid = (self.image_size // config.patch_size,) * 2
        if self.family is _SIGLIP:
            self._resize(config.image_size // config.patch_size, self.grid[0])
        self.preprocess = own_preprocess(self.source, self.image_size, *self.family.statistics)
        self.eval()

    def _resize(self, side_in: int, side_out: int) -> None:
        """Give SigLIP positions for another input size, as if it had been made for it."""
        embeddings = self.tower.embeddings
        table_ND = embeddings.position_embedding.weight.data
        table_ND = resize_positions(table_ND, side_in, side_out, prefix=0)
        embeddings.position_embedding = nn.Embedding.from_pretrained(table_ND, freeze=False)
        embeddings.position_ids = torch.arange(side_out**2).expand((1, -1))
        embeddings.num_patches = embeddings.num_positions = side_out**2
        embeddings.image_size = self.tower_config.image_size = self.image_size

    def hidden_states(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield what enters each block that runs and, last, what leaves the last, [B, P, D]."""
        pixels_BCHW = self.preprocess(images_BCHW)
        x_BPD = self.tower.embeddings(pixels_BCHW)
        extra = {}
        if hasattr(self.tower, "rope_embeddings"):
            extra["position_embeddings"] = self.tower.rope_embeddings(pixels_BCHW.to(x_BPD.dtype))
        yield x_BPD
        for _, block in self.blocks():
            x_BPD = output_of(block(x_BPD, **unmasked(block), **extra))
            yield x_BPD

    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1] as the class token, if there is one, and the grid's, [B, P, D].

        Register tokens are left out.
        """
        x_BPD = last_of(self.hidden_states(images_BCHW))
        if self.num_prefix < 2:
            return x_BPD
        return torch.cat([x_BPD[:, :1], x_BPD[:, self.num_prefix :]], dim=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1], [B, 3, H, W] of any size, as tokens [B, N, D]."""
        return last_of(self.hidden_states(images_BCHW))[:, self.num_prefix :]

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the blocks that run, by name."""
        names = {name for name, _ in self.tower.named_modules()}
        place = next(name for name in self.family.blocks if name in names)
        for index in range(self.num_blocks):
            name = f"tower.{place}.{index}"
            yield name, self.get_submodule(name)

    def attentions(self) -> Iterator[nn.Module]:
        """Yield the attention of each block that runs."""
        for _, block in self.blocks():
            yield getattr(block, "attention", None) or block.get_submodule("self_attn")

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the tokens depend on: not those above `layer`."""
        run = (*(f"{name}." for name, _ in self.blocks()), "tower.embeddings.")
        unused = tuple(f"tower.embeddings.{name}" for name in self.family.unused)
        for name, parameter in self.named_parameters():
            if name.startswith(run) and not name.startswith(unused):
                yield name, parameter

    def train(self, mode: bool = True) -> "TransformersViT":
        """Set the mode of LoRA inside; the tower itself stays in eval, see `set_encoder_mode`.

        In train mode DINOv3 moves its positions at random.
        """
        set_encoder_mode(self, mode)
        return self

    def export(self, folder: str | Path) -> Path:
        """Write an ordinary checkpoint of the family, whole or not at all.

        Raises:
            ConfigError: the encoder has LoRA layers, or the folder holds something else.
            CheckpointError: the disk is full or the folder cannot be written.
        """
        return write_whole(self, folder, self._write)

    def _write(self, folder: Path) -> dict[str, Any]:
        has_text = self._write_weights(folder)
        settings = image_processor(self, self.family.processor, self.family.crops)
        (folder / "preprocessor_config.json").write_text(settings)
        same_tokens(self, partial(_stock, self, folder))
        return {"model": self.family.model, "zero_shot": ["transformers"] if has_text else []}

    def _write_weights(self, folder: Path) -> bool:
        tower = deepcopy(self.tower).cpu()
        dtype = next(tower.parameters()).dtype
        if self.family.whole and hasattr(AutoConfig.from_pretrained(self.source), "text_config"):
            full = load_whole(getattr(transformers, self.family.whole), self.source, self.source)
            full.vision_model, full.config.vision_config = tower, self.tower_config
            full.to(dtype).save_pretrained(folder)
            if (tokenizer := find_tokenizer(self.source)) is not None:
                tokenizer.save_pretrained(folder)
            return True
        model = getattr(transformers, self.family.model)(self.tower_config)
        getattr(model, "vision_model", model).load_state_dict(tower.state_dict())
        model.to(dtype).save_pretrained(folder)
        return False

    @staticmethod
    def read_export(folder: Path) -> dict[str, Any]:
        """Return the arguments that read what `export` wrote to a folder."""
        return {"pretrained": str(folder)}

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of a block's linear layers that LoRA adapts by default."""
        return self.family.lora


def _family_of(source: str, pretrained: str) -> Family:
    try:
        model_type = AutoConfig.from_pretrained(source).model_type
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The encoder {pretrained!r} (model.encoder.pretrained) has no config.json that "
            f"transformers reads. The cause: {str(error).splitlines()[0]}"
        ) from error
    if model_type not in _FAMILIES:
        raise ConfigError(
            f"The encoder {pretrained!r} is of the model_type {model_type!r}; TransformersViT "
            f"takes {', '.join(_FAMILIES)}. A CLIP goes with TransformersCLIP or OpenCLIP, and "
            "SigLIP 2 is taken in its checkpoints of a fixed size, not as NaFlex."
        )
    return _FAMILIES[model_type]


def _stock(encoder: TransformersViT, folder: Path, images_BCHW: Tensor) -> Tensor:
    """Give the tokens as a user of transformers reads them from the folder."""
    model_class: Callable = getattr(transformers, encoder.family.model)
    model = load_whole(model_class, str(folder), str(folder)).eval()
    preprocess = own_preprocess(str(folder), encoder.image_size)
    read: list[Tensor] = []
    # The library's hidden_states[-1] has gone through the last norm in some of its versions.
    tower = getattr(model, "vision_model", model)
    names = [name.removeprefix("tower.") for name, _ in encoder.blocks()]
    if not names:
        return tower.embeddings(preprocess(images_BCHW))[:, encoder.num_prefix :]
    last = tower.get_submodule(names[-1])
    last.register_forward_hook(lambda block, inputs, output: read.append(output_of(output)))
    model(preprocess(images_BCHW))
    return read[0][:, encoder.num_prefix :]
