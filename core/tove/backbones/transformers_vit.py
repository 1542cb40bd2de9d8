"""Students beyond CLIP: vision transformers of transformers as plain tokens, and back into folders.

    tokens = hidden_states[layer] without class and register tokens, row by row on the patch grid

| family                              | before the grid       | positions                          |
|-------------------------------------|-----------------------|------------------------------------|
| SigLIP, SigLIP 2 of a fixed size    | nothing               | a table, interpolated once         |
| DINOv2, with registers or without   | class, registers      | a table, interpolated at each call |
| DINOv3                              | class, four registers | rotary, of any size                |

An export is the family's own checkpoint; SigLIP's holds the text tower where its source does.

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = prefix + N positions.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from tove.backbones.clip.text_side import find_tokenizer
from tove.backbones.export_folder import image_processor, same_tokens, write_whole
from tove.backbones.shapes import architecture, building_shapes
from tove.backbones.tokenizer_files import write_tokenizer
from tove.backbones.vit import load_whole, locate, output_of, own_preprocess, tower_of, unmasked
from tove.backbones.vit_encoder import ViTEncoder
from tove.config.validation import Range
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
class TransformersViT(ViTEncoder):
    """A SigLIP, SigLIP 2, DINOv2 or DINOv3 tower of transformers.

    Args:
        pretrained: hub id, local folder or "pkg:PACKAGE/FOLDER".
        image_size: input side in pixels; None is that of the model's config, 518 for DINOv2.
        layer: index into hidden_states.

    Attributes:
        source: the folder or hub id that the weights came from.
        tower_config: of the vision tower, as the library has it; peft takes whatever has a `config`
            for a model of transformers.

    Raises:
        ConfigError: no such folder, or of another family.
    """

    library = "transformers"
    attention_names = ("attention", "self_attn")  # in transformers 4 and 5
    before_blocks = ("tower.embeddings.",)

    def __init__(
        self, pretrained: str, image_size: Annotated[int, Range(1)] | None = None, layer: int = -1
    ) -> None:
        super().__init__(pretrained, layer)
        self.source = locate(pretrained)
        self.family = family = _family_of(self.source, pretrained)
        whole = load_whole(getattr(transformers, family.model), self.source, pretrained)
        self.tower: Any = tower_of(whole)
        self.tower_config = config = whole.config
        self.has_class_token = family is not _SIGLIP
        registers = getattr(config, "num_register_tokens", 0)
        self.num_prefix = 1 + registers if self.has_class_token else 0
        self.lora_targets = family.lora
        self.unused = tuple(f"tower.embeddings.{name}" for name in family.unused)
        names = {name for name, _ in self.tower.named_modules()}
        self.blocks_name = "tower." + next(name for name in family.blocks if name in names)
        sizes = config.hidden_size, config.image_size, config.patch_size
        side_in = self._lay_out(config.num_hidden_layers, *sizes, image_size)
        if family is _SIGLIP:
            self._resize(side_in)
        self.preprocess = own_preprocess(self.source, self.image_size, *family.statistics)
        self.eval()

    def _resize(self, side_in: int) -> None:
        """Give SigLIP positions for another input size, as if it had been made for it."""
        embeddings, side_out = self.tower.embeddings, self.grid[0]
        table_ND = self._resized(embeddings.position_embedding.weight.data, side_in)
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
                write_tokenizer(tokenizer, folder)
            return True
        model = getattr(transformers, self.family.model)(self.tower_config)
        tower_of(model).load_state_dict(tower.state_dict())
        model.to(dtype).save_pretrained(folder)
        return False


def _family_of(source: str, pretrained: str) -> Family:
    try:
        config = (
            architecture(source, "model.encoder.pretrained")
            if building_shapes()
            else AutoConfig.from_pretrained(source)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The encoder {pretrained!r} (model.encoder.pretrained) has no config.json that "
            f"transformers reads. The cause: {str(error).splitlines()[0]}"
        ) from error
    model_type = config.model_type
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
    tower = tower_of(model)
    names = [name.removeprefix("tower.") for name, _ in encoder.blocks()]
    if not names:
        return tower.embeddings(preprocess(images_BCHW))[:, encoder.num_prefix :]
    last = tower.get_submodule(names[-1])
    last.register_forward_hook(lambda block, inputs, output: read.append(output_of(output)))
    model(preprocess(images_BCHW))
    return read[0][:, encoder.num_prefix :]
