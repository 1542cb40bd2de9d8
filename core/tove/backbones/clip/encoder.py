"""The CLIP encoder, through transformers or through open_clip, as plain tokens.

    tokens = hidden_states[layer] without the class token, row by row on the patch grid

`layer` counts as transformers' hidden_states do: 0 is what enters the first block, -1 what leaves
the last one, before post-layernorm. Blocks above it are kept but never run.

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = N + 1 positions (class first).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import cached_file

from tove.backbones.preprocess import Preprocess
from tove.errors import ConfigError
from tove.registry import ENCODERS
from tove_plugins import resolve_resource

__all__ = ["OpenCLIP", "TransformersCLIP", "check_image_size", "resize_positions"]

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's codes, as preprocessor_config.json has them


def resize_positions(table_PD: Tensor, side_in: int, side_out: int) -> Tensor:
    """Interpolate a square grid's position table, class position first: [P, D] to [P', D]."""
    if side_in == side_out:
        return table_PD
    grid_1Dhw = table_PD[1:].unflatten(0, (side_in, side_in)).permute(2, 0, 1)[None].float()
    # As transformers' interpolate_pos_encoding, but antialiased where the grid shrinks.
    grid_1Dhw = F.interpolate(
        grid_1Dhw, size=(side_out, side_out), mode="bicubic", antialias=side_out < side_in
    )
    patches_ND = grid_1Dhw[0].flatten(1).T.to(table_PD.dtype)
    return torch.cat([table_PD[:1], patches_ND])


def _locate(pretrained: str) -> str:
    """Resolve "pkg:..." and paths; anything else is taken for a hub id.

    Raises:
        ConfigError: a path or package resource that is not there.
    """
    is_hub_id = not pretrained.startswith(("pkg:", "/", ".", "~")) and pretrained.count("/") <= 1
    path = resolve_resource(pretrained)
    if path.is_dir():
        return str(path)
    if is_hub_id:
        return pretrained
    raise ConfigError(
        f"The encoder's weights {pretrained!r} were looked for in {path}, which is not a folder; "
        "correct model.encoder.pretrained, or put a CLIP folder there."
    )


def check_image_size(image_size: int, patch_size: int, name: str) -> None:
    """Check that patches tile the image.

    Args:
        image_size: input side in pixels.
        patch_size: side of a patch in pixels.
        name: of the weights, as the config names them.

    Raises:
        ConfigError: they do not.
    """
    if image_size % patch_size:
        near = max(1, round(image_size / patch_size)) * patch_size
        raise ConfigError(
            f"model.encoder.image_size is {image_size}, which the patch size {patch_size} of "
            f"{name!r} does not divide; use a multiple of {patch_size}, such as {near}."
        )


def _count_blocks(layer: int, num_layers: int, name: str) -> int:
    """How many blocks to run for `hidden_states[layer]`."""
    if not -num_layers - 1 <= layer <= num_layers:
        raise ConfigError(
            f"model.encoder.layer is {layer}, but {name!r} has {num_layers} layers; "
            f"use a value from {-num_layers - 1} to {num_layers}, -1 being the last."
        )
    return layer % (num_layers + 1)


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
        width: of a token.
        grid: of the tokens, (height, width).
        image_size: input side in pixels.
    """

    def __init__(self, pretrained: str, image_size: int | None = None, layer: int = -1) -> None:
        super().__init__()
        self.pretrained, self.source = pretrained, _locate(pretrained)
        self.model = self._load(pretrained)
        config = self.model.config
        self.layer, self.width = layer, config.hidden_size
        self.num_blocks = _count_blocks(layer, config.num_hidden_layers, pretrained)
        self.image_size = int(image_size or config.image_size)
        check_image_size(self.image_size, config.patch_size, pretrained)
        side = self.image_size // config.patch_size
        self.grid = (side, side)
        self._resize(config.image_size // config.patch_size, side)
        self.preprocess = Preprocess((self.image_size,) * 2, **self._statistics())
        self.eval()

    def _load(self, pretrained: str) -> CLIPVisionModel:
        try:
            model, loaded = CLIPVisionModel.from_pretrained(self.source, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The encoder {pretrained!r} could not be loaded; model.encoder.pretrained takes "
                "the folder of a CLIPVisionModel or CLIPModel, 'pkg:PACKAGE/FOLDER' or a hub id. "
                f"The cause: {str(error).splitlines()[0]}"
            ) from error
        if loaded["missing_keys"]:
            raise ConfigError(
                f"{pretrained!r} is not a whole CLIP vision tower: it has no "
                f"{sorted(loaded['missing_keys'])[0]!r} (and {len(loaded['missing_keys']) - 1} "
                "more); point model.encoder.pretrained at a CLIPVisionModel or CLIPModel."
            )
        return model

    def _resize(self, side_in: int, side_out: int) -> None:
        """Give the model positions for another input size, as if it had been made for it."""
        embeddings = self.model.vision_model.embeddings
        table_PD = embeddings.position_embedding.weight.data
        num_positions = side_out**2 + 1
        embeddings.position_embedding = nn.Embedding(num_positions, self.width).to(table_PD.dtype)
        embeddings.position_embedding.weight.data = resize_positions(table_PD, side_in, side_out)
        embeddings.position_ids = torch.arange(num_positions).expand((1, -1))
        embeddings.num_patches, embeddings.num_positions = side_out**2, num_positions
        embeddings.image_size = self.model.config.image_size = self.image_size

    def _statistics(self) -> dict[str, Any]:
        """Mean, std and interpolation of the source's preprocessor_config.json, or CLIP's own."""
        file = cached_file(
            self.source,
            "preprocessor_config.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        found = json.loads(Path(file).read_text()) if file else {}
        return {
            "mean": found.get("masked_mean", OPENAI_CLIP_MEAN),
            "std": found.get("image_std", OPENAI_CLIP_STD),
            "interpolation": _RESAMPLE.get(found.get("resample", 3), "bicubic"),
        }

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1], [B, 3, H, W] of any size, as tokens [B, N, D]."""
        tower = self.model.vision_model
        x_BPD = tower.pre_layrnorm(tower.embeddings(self.preprocess(images_BCHW)))
        for block in tower.encoder.layers[: self.num_blocks]:
            x_BPD = block(x_BPD, attention_mask=None, causal_attention_mask=None)[0]
        return x_BPD[:, 1:]

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the blocks that run, by name."""
        for index in range(self.num_blocks):
            name = f"model.vision_model.encoder.layers.{index}"
            yield name, self.get_submodule(name)

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the tokens depend on: not those above `layer`."""
        run = tuple(f"{name}." for name, _ in self.blocks())
        before = ("model.vision_model.embeddings.", "model.vision_model.pre_layrnorm.")
        yield from ((n, p) for n, p in self.named_parameters() if n.startswith(run + before))

    @staticmethod
    def read_export(folder: Path) -> dict[str, Any]:
        """Give the arguments that read what `tove.backbones.clip.export` wrote to a folder."""
        return {"pretrained": str(folder)}

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of a block's linear layers that LoRA adapts by default."""
        return ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@ENCODERS.register_module()
class OpenCLIP(nn.Module):
    """A ViT vision tower of open_clip.

    Args:
        pretrained: a local folder with open_clip_config.json, "pkg:PACKAGE/FOLDER", or
            "hf-hub:ORG/NAME"; together with `model`, a weights file or open_clip's tag for it.
        model: open_clip's name of an architecture, such as "ViT-L-14".
        image_size: input side in pixels; another than the native one interpolates positions.
        layer: index into hidden states, counted as transformers does.

    Attributes:
        pretrained: as it was given.
        source: (name, weights) as `open_clip.create_model` takes them.
        width: of a token.
        grid: of the tokens, (height, width).
        image_size: input side in pixels.
    """

    def __init__(
        self,
        pretrained: str,
        model: str | None = None,
        image_size: int | None = None,
        layer: int = -1,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.source: tuple[str, str | None]
        if model is None and not pretrained.startswith("hf-hub:"):
            self.source = (f"local-dir:{_locate(pretrained)}", None)
        else:
            self.source = (model or pretrained, pretrained if model else None)
        self.visual: Any = self._load(pretrained)
        self.layer, self.width = layer, self.visual.conv1.out_channels
        self.num_blocks = _count_blocks(layer, len(self.visual.transformer.resblocks), pretrained)
        native, patch_size = self.visual.image_size[0], self.visual.patch_size[0]
        self.image_size = int(image_size or native)
        check_image_size(self.image_size, patch_size, pretrained)
        side = self.image_size // patch_size
        self.grid = self.visual.grid_size = (side, side)
        self.visual.image_size = (self.image_size,) * 2
        self.visual.positional_embedding = nn.Parameter(
            resize_positions(self.visual.positional_embedding.data, native // patch_size, side)
        )
        seen = self.visual.preprocess_cfg
        self.preprocess = Preprocess(
            self.visual.image_size, seen["mean"], seen["std"], interpolation=seen["interpolation"]
        )
        self.eval()

    def _load(self, pretrained: str) -> Any:  # noqa: ANN401 - open_clip is not typed
        import open_clip  # only for those who use it, and only when it is built

        name, weights = self.source
        try:
            clip = open_clip.create_model(name, weights, require_pretrained=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"open_clip could not load the encoder {pretrained!r}; model.encoder.pretrained "
                "takes a folder with open_clip_config.json, 'hf-hub:ORG/NAME', or, next to "
                f"model.encoder.model, a weights file or tag. The cause: "
                f"{str(error).splitlines()[0]}"
            ) from error
        visual = clip.visual
        if not isinstance(visual, open_clip.transformer.VisionTransformer):
            raise ConfigError(
                f"The vision tower of {pretrained!r} is a {type(visual).__name__}; OpenCLIP takes "
                "open_clip's own ViTs, whose tokens form a patch grid."
            )
        (height, width), patch = visual.image_size, visual.patch_size
        if height != width or patch[0] != patch[1]:
            raise ConfigError(
                f"{pretrained!r} takes images of {height}x{width} in patches of "
                f"{patch[0]}x{patch[1]}; only square ones are supported."
            )
        return visual

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Encode images in [0, 1], [B, 3, H, W] of any size, as tokens [B, N, D]."""
        pixels_BCHW = self.preprocess(images_BCHW).to(self.visual.conv1.weight.dtype)
        x_BPD = self.visual._embeds(pixels_BCHW)
        for block in self.visual.transformer.resblocks[: self.num_blocks]:
            x_BPD = block(x_BPD)
        return x_BPD[:, 1:]

    def blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the blocks that run, by name."""
        for index in range(self.num_blocks):
            name = f"visual.transformer.resblocks.{index}"
            yield name, self.get_submodule(name)

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the tokens depend on: not those above `layer`."""
        run = tuple(f"{name}." for name, _ in self.blocks())
        before = ("visual.conv1.", "visual.class_emb", "visual.positional_emb", "visual.ln_pre.")
        yield from ((n, p) for n, p in self.named_parameters() if n.startswith(run + before))

    @staticmethod
    def read_export(folder: Path) -> dict[str, Any]:
        """Give the arguments that read what `tove.backbones.clip.export` wrote to a folder."""
        return {"pretrained": str(folder / "open_clip"), "model": None}

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of a block's linear layers that LoRA adapts by default.

        open_clip keeps the attention's projections in one packed matrix, which LoRA leaves alone.
        """
        return ("c_fc", "c_proj")
