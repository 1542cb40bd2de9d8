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
from tove.api import MODELS, Fused, OnOtherExperts, ToVE, VisionLanguageModel, make_projector

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
class MyMethod(VisionLanguageModel):
    """The sum of all experts, gated by channel, added to CLIP's tokens.

    Args:
        encoder: config or module, see `VisionLanguageModel`.
        experts: by slot, see `ExpertHub`.
        language: config or module, see `VisionLanguageModel`.
        projector: dict(hidden=...) of `Projector`.
        gate: options of `ChannelGate`.
        **options: those of `VisionLanguageModel`.
    """

    # What a config's dicts are checked against, with the arguments that the model itself gives.
    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "gate": (ChannelGate, ("width",)),
        **{name: ToVE.sections[name] for name in ("projector", "token_cache")},
    }
    on_other_experts: ClassVar[OnOtherExperts] = "carry over"
    detachable = True
    slot_parts = ("hub.experts", "projector.first")

    def __init__(
        self,
        encoder: dict | nn.Module,
        experts: Mapping[str, Mapping[str, Any]],
        language: dict | nn.Module,
        projector: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(encoder, language, experts, **options)
        self.projector = make_projector(self.encoder, self.language, self.hub, projector)
        self.channel_gate = ChannelGate(self.language.width, **(gate or {}))
        self.settle()

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return t_fuse; without experts it is v."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        if not tokens:
            return Fused(v_BND, v_BND)
        projected = [self.projector.project_expert(slot, t) for slot, t in tokens.items()]
        z_BND = torch.stack(projected).sum(0)
        return Fused(v_BND + self.channel_gate(z_BND), v_BND)
