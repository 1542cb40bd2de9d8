"""The CLIP encoder through open_clip, as plain tokens.

    tokens = what leaves block `layer`, without the class token, row by row on the patch grid

Shapes: B batch, N = h * w tokens of the patch grid, D width, P = N + 1 positions (class first).
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor, nn

from tove.backbones.clip.export import FORMATS, export_encoder, open_clip_preprocess
from tove.backbones.clip.quick_gelu import forces_quick_gelu
from tove.backbones.shapes import building_shapes
from tove.backbones.vit import locate
from tove.backbones.vit_encoder import ViTEncoder
from tove.config.validation import Range
from tove.errors import ConfigError
from tove.registry import ENCODERS

__all__ = ["OpenCLIP"]


@ENCODERS.register_module()
class OpenCLIP(ViTEncoder):
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
        source: (name, weights) as `open_clip.create_model` takes them.
    """

    library = "open_clip"
    blocks_name = "visual.transformer.resblocks"
    attention_names = ("attn",)
    before_blocks = (
        "visual.conv1.", "visual.class_emb", "visual.positional_emb", "visual.ln_pre.",
    )  # fmt: skip
    # The attention's projections are one packed matrix, which LoRA leaves alone.
    lora_targets = ("c_fc", "c_proj")

    def __init__(
        self,
        pretrained: str,
        model: str | None = None,
        image_size: Annotated[int, Range(1)] | None = None,
        layer: int = -1,
        quick_gelu: bool | None = None,
    ) -> None:
        super().__init__(pretrained, layer)
        self.source: tuple[str, str | None]
        if model is None and not pretrained.startswith("hf-hub:"):
            self.source = (f"local-dir:{locate(pretrained)}", None)
        else:
            self.source = (model or pretrained, pretrained if model else None)
        self._asked_quick_gelu = quick_gelu
        self.visual: Any = self._load(pretrained)
        depth, width = len(self.visual.transformer.resblocks), self.visual.conv1.out_channels
        native, patch_size = self.visual.image_size[0], self.visual.patch_size[0]
        side_in = self._lay_out(depth, width, native, patch_size, image_size)
        self.visual.grid_size, self.visual.image_size = self.grid, (self.image_size,) * 2
        table_PD = self._resized(self.visual.positional_embedding.data, side_in)
        self.visual.positional_embedding = nn.Parameter(table_PD)
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

        if building_shapes() and self.source[0].startswith("hf-hub:"):
            raise self._not_loaded("its config.json would have to be fetched; name a folder")
        quick = bool(self.model_cfg().get("quick_gelu", False))
        try:
            if building_shapes():
                shape = {"load_weights": False, "device": "meta"}
                return open_clip.create_model(self.source[0], force_quick_gelu=quick, **shape)
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

    def export(self, folder: str | Path, formats: Collection[str] = FORMATS) -> Path:
        """Write an ordinary CLIP checkpoint, see `tove.backbones.clip.export`."""
        return export_encoder(self, folder, formats)

    @staticmethod
    def read_export(folder: Path) -> dict[str, Any]:
        """Return the arguments that read what `export` wrote to a folder."""
        return {"pretrained": str(folder / "open_clip"), "model": None, "quick_gelu": None}
