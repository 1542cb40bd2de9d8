"""The parameter-matched baseline: what ToVE would train on experts, spent on CLIP's own tokens.

    t_fuse = v + W2 GELU(W1 t_clip + b1) + b2          no expert, as many trained parameters

With a zero-initialised last layer it starts as plain CLIP: t_fuse = v at step 0.

Shapes: B batch, N tokens on CLIP's grid, C CLIP width (d_clip), D language width (d_lang).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.backbones.experts.hub import check_slots, expert_specs
from tove.methods.projected_experts import make_projector
from tove.methods.tove.gate import TokenGate
from tove.methods.tove.model import ToVE
from tove.methods.tove.transfer import ResidualTransfer
from tove.methods.vision_language_model import Fused, VisionLanguageModel
from tove.modules.projector import first_layer
from tove.protocols import Role
from tove.registry import MODELS

__all__ = ["MatchedBaseline", "MatchedMLP"]


class MatchedMLP(nn.Module):
    """The extra capacity.

    Args:
        d_clip: width of CLIP's tokens.
        d_lang: width of the language model.
        num_parameters: trainable parameters to match; the hidden width is the one that comes
            closest to it.
        zero_init: start as plain CLIP.
    """

    def __init__(
        self, d_clip: int, d_lang: int, num_parameters: int, zero_init: bool = True
    ) -> None:
        super().__init__()
        hidden = max(1, round((num_parameters - d_lang) / (d_clip + d_lang + 1)))
        self.inner = nn.Linear(d_clip, hidden)
        self.outer = nn.Linear(hidden, d_lang)
        if zero_init:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, v_BND: Tensor, t_clip_BNC: Tensor) -> Tensor:
        """Return t_fuse [B, N, D] from projected CLIP tokens v and the CLIP tokens themselves."""
        t_clip_BNC = t_clip_BNC.to(self.inner.weight.dtype)
        return v_BND + self.outer(F.gelu(self.inner(t_clip_BNC)))


@MODELS.register_module()
class MatchedBaseline(VisionLanguageModel):
    """As many trained parameters as a `ToVE` of these settings, and no expert.

    Args:
        encoder: config or module, see `tove.backbones.clip.encoder`.
        experts: by slot; their specs say what ToVE would train, none of them is built.
        language: config or module, see `tove.backbones.language.causal_lm`.
        projector: options of ToVE's projector.
        gate: options of ToVE's gate.
        transfer: options of ToVE's transfer.
        detached: slots that ToVE would not have.
        **options: those of `VisionLanguageModel`.
    """

    sections = ToVE.sections
    role: ClassVar[Role] = "baseline"

    def __init__(
        self,
        encoder: dict | nn.Module,
        experts: Mapping[str, Mapping[str, Any]],
        language: dict | nn.Module,
        projector: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
        transfer: Mapping[str, Any] | None = None,
        detached: Sequence[str] = (),
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(encoder, language, **options)
        check_slots(experts)
        self.projector = make_projector(self.encoder, self.language, self.hub, projector)
        d_clip, d_lang = self.encoder.width, self.language.width
        hidden = self.projector.shared.in_features
        specs = expert_specs(experts, detached)
        with torch.device("meta"):
            extra = nn.ModuleList(
                first_layer(t.width, t.grid, self.encoder.grid, hidden, t.kind == "map")
                for t in (spec.tokens for spec in specs.values())
            )
            extra.append(TokenGate(d_clip, tuple(specs), expert_width=hidden, **(gate or {})))
            extra.append(ResidualTransfer(d_lang, **(transfer or {})))
        budget = sum(parameter.numel() for parameter in extra.parameters())
        zero_init = (transfer or {}).get("zero_init", True)
        self.transfer = MatchedMLP(d_clip, d_lang, budget, zero_init)
        self.settle()

    @classmethod
    def experts_of(cls, settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return none: the experts are looked up, not run."""
        return {}

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return v with the MLP's part added."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        return Fused(self.transfer(v_BND, t_clip_BNC), v_BND)
