"""All experts side by side, as Eagle and Cambrian do: along channels, or along tokens.

    ConcatChannels   t_fuse = v + lambda MLP_c([GELU(W_1 t_1 + b_1); ...; GELU(W_K t_K + b_K)])
    ConcatTokens     t_fuse = [v; P_1(t_1); ...; P_K(t_K)]       (K + 1) N tokens are read

MLP_c is MLP_t with an input K times as wide. Nothing is chosen, so nothing can be detached without
training again.

Shapes: B batch, N tokens on CLIP's grid, C CLIP width, H hidden width, D language width, K experts.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from tove.methods.baselines.single_expert import SingleExpert
from tove.methods.projected_experts import ProjectedExperts
from tove.methods.tove.transfer import ResidualTransfer
from tove.methods.vision_language_model import Fused
from tove.protocols import Role
from tove.registry import MODELS

__all__ = ["ConcatChannels", "ConcatTokens"]


@MODELS.register_module()
class ConcatChannels(ProjectedExperts):
    """The experts' tokens of one place as one long vector.

    Args:
        transfer: options of `ResidualTransfer`.
        **options: those of `ProjectedExperts`.
    """

    sections = SingleExpert.sections
    role: ClassVar[Role] = "variant"

    def __init__(
        self,
        transfer: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(**options)
        d_in = len(self.hub.attached) * self.projector.shared.in_features
        self.transfer = ResidualTransfer(self.language.width, d_in=d_in, **(transfer or {}))
        self.settle()

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return v with the joint vector's part added."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        hidden = [self.projector.hidden_tokens(slot, tokens[slot]) for slot in tokens]
        return Fused(self.transfer(v_BND, torch.cat(hidden, -1)), v_BND)


@MODELS.register_module()
class ConcatTokens(ProjectedExperts):
    """The experts' tokens behind CLIP's: the language model reads them all.

    Args:
        **options: those of `ProjectedExperts`.
    """

    role: ClassVar[Role] = "variant"

    def __init__(
        self,
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(**options)
        self.settle()

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return [B, (K + 1) N, D]: v, then each expert's tokens on CLIP's grid."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        seen = [self.projector.project_expert(slot, tokens[slot]) for slot in tokens]
        return Fused(torch.cat([v_BND, *seen], 1), v_BND)
