"""The CLIP encoder through open_clip, as plain tokens.

    tokens = what leaves block `layer`, without the class token, row by row on the patch grid

`layer` counts as in `tove.backbones.clip.encoder`.

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = N + 1 positions (class first).
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tove.backbones.clip.export import FORMATS, export_encoder, open_clip_preprocess
from tove.backbones.clip.quick_gelu import forces_quick_gelu
from tove.backbones.vit import (
    check_image_size,
    count_blocks,
    last_of,
    locate,
    resize_positions,
    set_encoder_mode,
)
from tove.errors import ConfigError
from tove.registry import ENCODERS

__all__ = ["OpenCLIP"]


@ENCODERS.register_module()
class OpenCLIP(nn.Module):
    """A ViT vision tower of open_clip.

    Args:
        pretrained: a local folder with open_clip_config.json, "pkg:PACKAGE/FOLDER", or
            "hf-hub:ORG/NAME"; together with `model`, a weights file or open_clip's tag for it.
        model: open_clip's name of an architecture, such as "ViT-L-14".
        image_size: input side in pixels; another than the native one interpolates positions.
        layer: index into hidden states, counted as transformers does.
        quick_gelu: whether the weights were trained with QuickGELU, as OpenAI's were; None is what
            open_clip knows of a tag or a folder, see `tove.backbones.clip.quick_gelu`.

    Attributes:
        pretrained: as it was given.
        source: (name, weights) as `open_clip.create_model` takes them.
        width: of a token.
        grid: of the tokens, (height, width).
        image_size: input side in pixels.
        library: whose format is its own.
        has_class_token: whether `encode` gives one before the grid's.
    """

    library = "open_clip"
    has_class_token = True

    def __init__(
        self,
        pretrained: str,
        model: str | None = None,
        image_size: int | None = None,
        layer: int = -1,
        quick_gelu: bool | None = None,
    ) -> None:
        super().__init__()
        self.pretrained = pretrained
        self.source: tuple[str, str | None]
        if model is None and not pretrained.startswith("hf-hub:"):
            self.source = (f"local-dir:{locate(pretrained)}", None)
        else:
            self.source = (model or pretrained, pretrained if model else None)
        self._asked_quick_gelu = quick_gelu
        self.visual: Any = self._load(pretrained)
        self.layer, self.width = layer, self.visual.conv1.out_channels
        self.num_blocks = count_blocks(layer, len(self.visual.transformer.resblocks), pretrained)
        native, patch_size = self.visual.image_size[0], self.visual.patch_size[0]
        self.image_size = int(image_size or native)
        check_image_size(self.image_size, patch_size, pretrained)
        side = self.image_size // patch_size
        self.grid = self.visual.grid_size = (side, side)
        self.visual.image_size = (self.image_size,) * 2
        self.visual.positional_embedding = nn.Parameter(
            resize_positions(self.visual.positional_embedding.data, native // patch_size, side)
        )
        self.preprocess = open_clip_preprocess(self.visual)
        self.eval()

    def model_cfg(self) -> dict[str, Any]:
        """Read open_clip's config of the whole CLIP, with the weights' own activation.

        Raises:
            ConfigError: open_clip has none, or its activation cannot be the weights'.
        """
        import open_clip  # only for those who use it, and only when it is built

        name, weights = self.source
        is_name = ":" not in name
        try:
            config = open_clip.get_model_config(name.replace("/", "-") if is_name else name)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._not_loaded(str(error)) from error
        if config is None:
            raise self._not_loaded(f"it knows no architecture {name!r}")
        asked = self._asked_quick_gelu
        if forces_quick_gelu(config, name if is_name else None, weights, asked):
            config["quick_gelu"] = True
        return config

    def load_source(self) -> Any:  # noqa: ANN401 - open_clip is not typed
        """Load the whole CLIP that the tower comes from, text tower included.

        Raises:
            ConfigError: open_clip could not load it.
        """
        import open_clip

        quick = bool(self.model_cfg().get("quick_gelu", False))
        try:
            return open_clip.create_model(
                *self.source, require_pretrained=True, force_quick_gelu=quick
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise self._not_loaded(str(error)) from error

    def _not_loaded(self, cause: str) -> ConfigError:
        return ConfigError(
            f"open_clip could not load the encoder {self.pretrained!r}; model.encoder.pretrained "
            "takes a folder with open_clip_config.json, 'hf-hub:ORG/NAME', or, next to "
            f"model.encoder.model, a weights file or tag. The cause: {cause.splitlines()[0]}"
        )

    def _load(self, pretrained: str) -> Any:  # noqa: ANN401 - open_clip is not typed
        import open_clip

        visual = self.load_source().visual
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

    def hidden_states(self, images_BCHW: Tensor) -> Iterator[Tensor]:
        """Yield what enters each block that runs and, last, what leaves the last, [B, 1 + N, D]."""
        pixels_BCHW = self.preprocess(images_BCHW).to(self.visual.conv1.weight.dtype)
        x_BPD = self.visual._embeds(pixels_BCHW)
        yield x_BPD
        for block in self.visual.transformer.resblocks[: self.num_blocks]:
            x_BPD = block(x_BPD)
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
            name = f"visual.transformer.resblocks.{index}"
            yield name, self.get_submodule(name)

    def attentions(self) -> Iterator[nn.Module]:
        """Yield the attention of each block that runs; its q, k, v are packed in in_proj_weight."""
        for _, block in self.blocks():
            yield block.get_submodule("attn")

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the tokens depend on: not those above `layer`."""
        run = tuple(f"{name}." for name, _ in self.blocks())
        before = ("visual.conv1.", "visual.class_emb", "visual.positional_emb", "visual.ln_pre.")
        yield from ((n, p) for n, p in self.named_parameters() if n.startswith(run + before))

    def train(self, mode: bool = True) -> "OpenCLIP":
        """Set the mode of LoRA inside; the tower itself stays in eval, see `set_encoder_mode`.

        In train mode open_clip's towers drop patches where their config says `patch_dropout`.
        """
        set_encoder_mode(self, mode)
        return self

    def export(self, folder: str | Path, formats: Collection[str] = FORMATS) -> Path:
        """Write an ordinary CLIP checkpoint, see `tove.backbones.clip.export`."""
        return export_encoder(self, folder, formats)

    @staticmethod
    def read_export(folder: Path) -> dict[str, Any]:
        """Return the arguments that read what `export` wrote to a folder."""
        return {"pretrained": str(folder / "open_clip"), "model": None, "quick_gelu": None}

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Names of a block's linear layers that LoRA adapts by default.

        open_clip keeps the attention's projections in one packed matrix, which LoRA leaves alone.
        """
        return ("c_fc", "c_proj")
