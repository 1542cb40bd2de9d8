"""What the methods share that project every encoder's tokens into the language model's space.

Shapes: B batch, N tokens on CLIP's grid, D language width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.methods.vision_language_model import VisionLanguageModel
from tove.modules.projector import Projector

__all__ = ["PROJECTOR", "ProjectedExperts", "make_projector", "plain_state"]

PROJECTOR = (Projector, ("d_clip", "expert_widths", "grid", "expert_grids", "map_slots", "d_lang"))
"""The section of a config that says how the projector is made, and what a model gives it itself."""


# What of a method stands behind the encoder when everything else is gone.
_KEPT = ("projector.first.clip.", "projector.shared.", "language.")


def plain_state(state: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Return the state of plain CLIP around an encoder: P_clip and the language side stay.

    Args:
        state: of the model that the encoder learned from.
        encoder: without LoRA layers.
    """
    kept = {name: tensor for name, tensor in state.items() if name.startswith(_KEPT)}
    return {**kept, **{f"encoder.{name}": p for name, p in encoder.named_parameters()}}


def make_projector(
    encoder: Any,  # noqa: ANN401 - any encoder
    language: Any,  # noqa: ANN401 - any language model
    hub: ExpertHub,
    options: Mapping[str, Any] | None = None,
    kind: type[Projector] = Projector,
) -> Projector:
    """Make the projector from an encoder and the hub's experts to a language model.

    Args:
        encoder: has `width` and `grid`.
        language: has `width`.
        hub: the experts that get a first layer each.
        options: dict(hidden=...); hidden is the language width where it is not given.
        kind: of projector.
    """
    return kind(
        encoder.width,
        hub.widths,
        encoder.grid,
        hub.grids,
        (options or {}).get("hidden") or language.width,
        language.width,
        [slot for slot, spec in hub.specs.items() if spec.tokens.kind == "map"],
    )


class ProjectedExperts(VisionLanguageModel):
    """CLIP and experts with a first layer each, and the second layer that they share.

    A method adds its own parts behind `super().__init__` and ends with `self.settle()`.

    Args:
        encoder: config or module, see `tove.backbones.clip.encoder`.
        experts: by slot, see `ExpertHub`.
        language: config or module, see `tove.backbones.language`.
        projector: dict(hidden=...) of `Projector`; hidden is the language width where it is not
            given.
        **options: those of `VisionLanguageModel`.
    """

    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "projector": PROJECTOR,
        "token_cache": (TokenCache, ()),
    }
    slot_parts: tuple[str, ...] = ("hub.experts", "projector.first")

    def __init__(
        self,
        encoder: dict | nn.Module,
        experts: Mapping[str, Mapping[str, Any]],
        language: dict | nn.Module,
        projector: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(encoder, language, experts, **options)
        kind = self.sections["projector"][0]
        self.projector = make_projector(self.encoder, self.language, self.hub, projector, kind)
