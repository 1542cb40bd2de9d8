"""A single expert: t_fuse = v + lambda MLP_t(P_k(t_k)). No gate, for there is nothing to choose.

Shapes: B batch, N tokens on CLIP's grid, C CLIP width, D language width, M tokens of the expert.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tove.errors import ConfigError, close_matches
from tove.methods.tove.model import ToVE
from tove.methods.tove.projector import make_projector
from tove.methods.tove.transfer import ResidualTransfer
from tove.methods.vision_language_model import Fused, VisionLanguageModel
from tove.protocols import Role
from tove.registry import MODELS

__all__ = ["SingleExpert"]


@MODELS.register_module()
class SingleExpert(VisionLanguageModel):
    """CLIP and one expert of the config's.

    Args:
        encoder: config or module, see `tove.backbones.clip.encoder`.
        experts: by slot.
        language: config or module, see `tove.backbones.language.causal_lm`.
        expert: the slot of the one that is used; the others are neither built nor looked up.
        projector: options of `Projector`.
        transfer: options of `ResidualTransfer`.
        detached: slots that other methods of the run do without; the one that is used is not to be
            among them.
        **options: those of `VisionLanguageModel`.
    """

    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        name: ToVE.sections[name] for name in ("transfer", "projector", "token_cache")
    }
    role: ClassVar[Role] = "variant"
    slot_parts = ("hub.experts", "projector.first")

    def __init__(
        self,
        encoder: dict | nn.Module,
        experts: Mapping[str, Mapping[str, Any]],
        language: dict | nn.Module,
        expert: str,
        projector: Mapping[str, Any] | None = None,
        transfer: Mapping[str, Any] | None = None,
        detached: Sequence[str] = (),
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        one = self.experts_of({"experts": experts, "expert": expert, "detached": detached})
        super().__init__(encoder, language, one, **options)
        self.expert = expert
        self.projector = make_projector(self.encoder, self.language, self.hub, projector)
        self.transfer = ResidualTransfer(self.language.width, **(transfer or {}))
        self.settle()

    @classmethod
    def experts_of(cls, settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return the one expert.

        Raises:
            ConfigError: there is no such slot, or it is detached.
        """
        slot, experts = settings["expert"], settings["experts"]
        if slot not in experts:
            raise ConfigError(
                f"SingleExpert is to use the slot '{slot}', which model.experts does not have. "
                f"{close_matches(slot, experts)}"
            )
        if slot in (settings.get("detached") or ()):
            raise ConfigError(
                f"SingleExpert is to use the slot '{slot}', which model.detached takes away; take "
                "it out of model.detached, or set another `expert`."
            )
        return {slot: experts[slot]}

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return v with the expert's part added."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        z_BND = self.projector.project_expert(self.expert, tokens[self.expert])
        return Fused(self.transfer(v_BND, z_BND), v_BND)
