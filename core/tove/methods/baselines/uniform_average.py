"""The experts' plain average: ToVE with every gate weight 1/K.

    t_fuse = v + lambda MLP_t(1/K sum_k P_k(t_k))

Shapes: B batch, N tokens on CLIP's grid, C CLIP width, D language width, K experts that run.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from torch import Tensor

from tove.config.validation import Range
from tove.methods.baselines.single_expert import SingleExpert
from tove.methods.projected_experts import ProjectedExperts
from tove.methods.tove.expert_dropout import draw_dropped
from tove.methods.tove.transfer import ResidualTransfer
from tove.methods.vision_language_model import Fused
from tove.protocols import OnOtherExperts, Role
from tove.registry import MODELS

__all__ = ["UniformAverage"]


@MODELS.register_module()
class UniformAverage(ProjectedExperts):
    """All experts alike, in every token.

    Args:
        transfer: options of `ResidualTransfer`.
        expert_dropout: probability of a training step in which one to all experts sit out.
        **options: those of `ProjectedExperts`.
    """

    sections = SingleExpert.sections
    role: ClassVar[Role] = "variant"
    on_other_experts: ClassVar[OnOtherExperts] = "carry over"
    detachable = True

    def __init__(
        self,
        transfer: Mapping[str, Any] | None = None,
        expert_dropout: Annotated[float, Range(0, 1, below=True)] = 0.0,
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(**options)
        self.expert_dropout = expert_dropout
        self.transfer = ResidualTransfer(self.language.width, **(transfer or {}))
        self.settle()

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return v with the average's part added; without experts it is v."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        if not tokens:
            return Fused(v_BND, v_BND)
        weights_BNK = v_BND.new_full((*v_BND.shape[:2], len(tokens)), 1 / len(tokens))
        z_BND = self.projector.mix(weights_BNK, list(tokens), tokens)
        return Fused(self.transfer(v_BND, z_BND), v_BND)

    def dropped(self) -> frozenset[str]:
        """Return the experts that sit this training step out."""
        if not self.training:
            return frozenset()
        return draw_dropped(self.slots, self.expert_dropout, self.shared_generator)

    @property
    def leaves_unused(self) -> bool:
        """Whether a step may leave trained parameters out of its graph."""
        return self.expert_dropout > 0 or not self.hub.attached
