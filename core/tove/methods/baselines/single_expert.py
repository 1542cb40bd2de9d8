"""A single expert: t_fuse = v + lambda MLP_t(P_k(t_k)). No gate, for there is nothing to choose.

Shapes: B batch, N tokens on CLIP's grid, C CLIP width, D language width, M tokens of the expert.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from tove.errors import ConfigError, close_matches
from tove.methods.projected_experts import ProjectedExperts
from tove.methods.tove.model import ToVE
from tove.methods.tove.transfer import ResidualTransfer
from tove.methods.vision_language_model import Fused
from tove.protocols import Role
from tove.registry import MODELS

__all__ = ["SingleExpert"]


@MODELS.register_module()
class SingleExpert(ProjectedExperts):
    """CLIP and one expert of the config's.

    Args:
        expert: the slot of the one that is used.
        experts: by slot; the others are neither built nor looked up.
        transfer: options of `ResidualTransfer`.
        detached: slots that other methods of the run do without; the one that is used is not to be
            among them.
        **options: those of `ProjectedExperts`.
    """

    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        name: ToVE.sections[name] for name in ("transfer", "projector", "token_cache")
    }
    role: ClassVar[Role] = "variant"

    def __init__(
        self,
        expert: str,
        experts: Mapping[str, Mapping[str, Any]],
        transfer: Mapping[str, Any] | None = None,
        detached: Sequence[str] = (),
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        one = self.experts_of({"experts": experts, "expert": expert, "detached": detached})
        super().__init__(experts=one, **options)
        self.expert = expert
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
