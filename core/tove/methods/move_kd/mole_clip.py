"""A student with MoLE as a checkpoint of its own: a registered class of transformers.

    import tove.methods                                     # makes the class known
    AutoModel.from_pretrained(folder)                       # a MoLECLIPVisionModel
    dict(type="MoLECLIP", pretrained=folder)                # the same, as an encoder of a config

MoLE depends on the token and folds into no weight of a stock CLIP: whoever loads this folder needs
this package. A MergeStage makes a stock CLIP of it, at a loss that it measures.

Shapes: see `tove.backbones.clip.encoder`.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, CLIPVisionModel

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.export_folder import image_processor, same_tokens, write_whole
from tove.backbones.vit import tower_of
from tove.errors import ConfigError
from tove.methods.move_kd.mole import MoLE
from tove.registry import ENCODERS

__all__ = ["MoLECLIP", "MoLECLIPVisionConfig", "MoLECLIPVisionModel"]


class MoLECLIPVisionConfig(CLIPVisionConfig):
    """CLIP's vision tower, and where MoLE is in it.

    Args:
        mole: arguments of `MoLE`.
        mole_layers: numbers of the blocks that have it.
        **options: of CLIPVisionConfig.
    """

    model_type = "mole_clip_vision_model"

    def __init__(
        self,
        mole: Mapping[str, Any] | None = None,
        mole_layers: Collection[int] = (),
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**options)
        self.mole, self.mole_layers = dict(mole or {}), list(mole_layers)


class MoLECLIPVisionModel(CLIPVisionModel):
    """CLIP's vision tower with a mixture of LoRA experts in its FFNs."""

    config_class: Any = MoLECLIPVisionConfig

    def __init__(self, config: MoLECLIPVisionConfig) -> None:
        super().__init__(config)
        tower: Any = tower_of(self)
        blocks = tower.encoder.layers
        for number in config.mole_layers:
            blocks[number].mlp = MoLE(blocks[number].mlp, **config.mole)


AutoConfig.register(MoLECLIPVisionConfig.model_type, MoLECLIPVisionConfig)
AutoModel.register(MoLECLIPVisionConfig, MoLECLIPVisionModel)


@ENCODERS.register_module()
class MoLECLIP(TransformersCLIP):
    """The encoder of such a folder; arguments as of `TransformersCLIP`."""

    tower_class: ClassVar[type[CLIPVisionModel]] = MoLECLIPVisionModel

    @classmethod
    def around(cls, student: TransformersCLIP) -> "MoLECLIP":
        """Return a copy of a student that MoLE was put into.

        Raises:
            ConfigError: it is of another library.
        """
        if not isinstance(student, TransformersCLIP):
            raise ConfigError(
                f"A {type(student).__name__} with MoLE has no checkpoint that its library reads; "
                "merge it into a plain CLIP by a MergeStage, or take TransformersCLIP."
            )
        copy = cls.__new__(cls)
        copy.__dict__.update(deepcopy(student).__dict__)
        return copy

    def export(self, folder: str | Path, formats: Collection[str] = ()) -> Path:
        """Write the folder, read back and compared; there is no format but the one.

        Raises:
            ConfigError: see `write_whole`.
        """
        return write_whole(self, folder, self._write)

    def _write(self, new: Path) -> dict[str, Any]:
        tower = deepcopy(self.tower).cpu()
        layers = {n: block.mlp for n, block in enumerate(tower.encoder.layers)}
        mixed = {n: mlp for n, mlp in layers.items() if isinstance(mlp, MoLE)}
        options = next(iter(mixed.values())).options
        plain = {k: v for k, v in self.tower_config.to_dict().items() if not k.startswith("mole")}
        plain.pop("model_type")
        config = MoLECLIPVisionConfig(mole=options, mole_layers=list(mixed), **plain)
        model = MoLECLIPVisionModel(config)
        tower_of(model).load_state_dict(tower.state_dict())
        model.to(tower.post_layernorm.weight.dtype).save_pretrained(new)
        settings = image_processor(self, "CLIPImageProcessor", crops=True)
        (new / "preprocessor_config.json").write_text(settings)
        same_tokens(self, partial(_read, new, self.layer))
        return {"type": type(self).__name__, "text_tower": "none", "zero_shot": []}


def _read(folder: Path, layer: int, images_BCHW: Tensor) -> Tensor:
    tokens_BND: Tensor = MoLECLIP(str(folder), layer=layer)(images_BCHW)
    return tokens_BND
