"""A gate per channel over the experts' sum.

    t_fuse = v + sigmoid(s) * sum_k P_k(t_k)        v = P_clip(t_clip)

s is one trained number per channel of the language model: how much of what the experts say in that
channel is let through, in every token alike. With s far below zero t_fuse is plain CLIP's v.

Shapes: B batch, N tokens on CLIP's grid, C CLIP width, M_k tokens of expert k, D language width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tove.api import MODELS, Fused, OnOtherExperts, ProjectedExperts

from tove_my_method.report import channel_section

__all__ = ["ChannelGate", "MyMethod", "channel_section"]


class ChannelGate(nn.Module):
    """sigmoid(s) * z.

    Args:
        width: number of channels.
        start: s before training; the default lets an eighth through.
    """

    def __init__(self, width: int, start: float = -2.0) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.full((width,), float(start)))

    def forward(self, z_BND: Tensor) -> Tensor:
        """Return what is let through, [B, N, D]."""
        return self.scores.sigmoid().to(z_BND.dtype) * z_BND


@MODELS.register_module()
class MyMethod(ProjectedExperts):
    """The sum of all experts, gated by channel, added to CLIP's tokens.

    Args:
        channel_gate: options of `ChannelGate`.
        **options: those of `ProjectedExperts`: encoder, experts, language, projector, ...
    """

    # What a config's dicts are checked against, with the arguments that the model itself gives.
    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "channel_gate": (ChannelGate, ("width",)),
        **ProjectedExperts.sections,
    }
    on_other_experts: ClassVar[OnOtherExperts] = "carry over"
    detachable = True

    def __init__(self, channel_gate: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.channel_gate = ChannelGate(self.language.width, **(channel_gate or {}))
        self.settle()

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return t_fuse; without experts it is v."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        if not tokens:
            return Fused(v_BND, v_BND)
        projected = [self.projector.project_expert(slot, t) for slot, t in tokens.items()]
        z_BND = torch.stack(projected).sum(0)
        return Fused(v_BND + self.channel_gate(z_BND), v_BND)
