"""Other ways for the experts' mixture z into the tokens, each in place of ToVE's residual transfer.

    ToVE                 t_fuse = v + lambda MLP_t(z)
    ToVEReplace          t_fuse = lambda MLP_t(z)                   of v nothing is kept
    ToVEConcat           t_fuse = lambda MLP_c([v; z])              nor here, but MLP_c sees it
    ToVECrossAttention   t_fuse = v + lambda W_o A(LN v, LN z)      each token asks all tokens of z
    ToVESeparateLayers   ToVE's, with z_i = sum_k g_ik (W_k' GELU(W_k t_k + b_k)_i + b_k')

A is multi-head attention with queries from its first and keys and values from its second argument
(Vaswani et al., arXiv 1706.03762); MLP_c is MLP_t with an input twice as wide; W_k' is a second
layer of the expert's own, W_s is then CLIP's alone. With every expert detached all are v, as ToVE.

Shapes: B batch, N tokens on CLIP's grid, D language width, K experts, H heads, W a head's width.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.config.validation import Range
from tove.errors import ConfigError
from tove.methods.tove.model import ToVE
from tove.methods.tove.transfer import ResidualTransfer
from tove.modules.projector import Projector
from tove.protocols import Role
from tove.registry import MODELS

__all__ = ["ToVEConcat", "ToVECrossAttention", "ToVEReplace", "ToVESeparateLayers"]

Sections = Mapping[str, tuple[type, tuple[str, ...]]]


class ReplaceTransfer(ResidualTransfer):
    """`ResidualTransfer` without its residual: what the experts say is all that is read."""

    def forward(self, v_BND: Tensor, z_BND: Tensor) -> Tensor:
        """Return t_fuse [B, N, D] from the experts' mixture z."""
        return self.scale * self.outer(F.gelu(self.inner(z_BND)))


class ConcatTransfer(ResidualTransfer):
    """`ReplaceTransfer` of v and z side by side; arguments as those of `ResidualTransfer`."""

    def __init__(self, d_lang: int, **options: Any) -> None:  # noqa: ANN401 - the base's
        super().__init__(d_lang, d_in=2 * d_lang, **options)

    def forward(self, v_BND: Tensor, z_BND: Tensor) -> Tensor:
        """Return t_fuse [B, N, D]."""
        joint_BNE = torch.cat([v_BND, z_BND], -1)
        return self.scale * self.outer(F.gelu(self.inner(joint_BNE)))


class CrossAttentionTransfer(nn.Module):
    """CLIP's tokens ask the experts' mixture, wherever in the image it lies.

    Args:
        d_lang: width of the language model.
        hidden: width of queries, keys and values; None is half of `d_lang` or a little less, with
            which it has as many weights as MLP_t.
        num_heads: divides `hidden`.
        scale: lambda, as in `ResidualTransfer`.
        zero_init: start with W_o = 0, that is with plain CLIP.
    """

    def __init__(
        self,
        d_lang: int,
        hidden: Annotated[int, Range(1)] | None = None,
        num_heads: Annotated[int, Range(1)] = 4,
        scale: Literal["learned"] | float = "learned",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        width = hidden or num_heads * max(1, d_lang // (2 * num_heads))
        if width % num_heads:
            raise ConfigError(
                f"transfer.hidden is {width} wide, which {num_heads} heads do not divide; set "
                "transfer.num_heads or transfer.hidden so that they do."
            )
        self.num_heads = num_heads
        self.norm_v, self.norm_z = nn.LayerNorm(d_lang), nn.LayerNorm(d_lang)
        self.query, self.key = nn.Linear(d_lang, width), nn.Linear(d_lang, width)
        self.value, self.outer = nn.Linear(d_lang, width), nn.Linear(width, d_lang)
        self.scale = nn.Parameter(torch.ones(())) if scale == "learned" else float(scale)
        if zero_init:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, v_BND: Tensor, z_BND: Tensor) -> Tensor:
        """Return t_fuse [B, N, D]."""
        asked_BND = self.norm_z(z_BND)
        query_BHNW = self._by_head(self.query(self.norm_v(v_BND)))
        key_BHNW, value_BHNW = (self._by_head(f(asked_BND)) for f in (self.key, self.value))
        found_BHNW = F.scaled_dot_product_attention(query_BHNW, key_BHNW, value_BHNW)
        return v_BND + self.scale * self.outer(found_BHNW.transpose(1, 2).flatten(2))

    def _by_head(self, x_BNE: Tensor) -> Tensor:
        return x_BNE.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class SeparateLayers(Projector):
    """`Projector` in which each expert has a second layer of its own; the shared one is CLIP's."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - the base's
        super().__init__(*args, **options)
        d_lang, hidden = self.shared.weight.shape
        self.second = nn.ModuleDict({slot: nn.Linear(hidden, d_lang) for slot in self.expert_grids})

    def project_expert(self, slot: str, tokens_BMD: Tensor) -> Tensor:
        """Return P_k(t_k) on CLIP's grid, [B, N, D]."""
        projected_BND: Tensor = self.second[slot](self.hidden_tokens(slot, tokens_BMD))
        return projected_BND

    def mix(
        self,
        gates_BNK: Tensor,
        slots: Sequence[str],
        expert_tokens: Mapping[str, Tensor],
        known: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return z, the gated sum of the experts' projections, [B, N, D]; as `Projector.mix`."""
        known = known or {}
        said = {
            slot: self.second[slot](known[slot])
            if slot in known
            else self.project_expert(slot, tokens)
            for slot, tokens in expert_tokens.items()
        }
        return self._gated_sum(gates_BNK, slots, expert_tokens, said)


def _with(**parts: type) -> Sections:
    """Return ToVE's sections with other classes for some."""
    own = {name: (part, ToVE.sections[name][1]) for name, part in parts.items()}
    return {**ToVE.sections, **own}


@MODELS.register_module()
class ToVEReplace(ToVE):
    """ToVE whose language model reads the experts' mixture alone."""

    sections: ClassVar[Sections] = _with(transfer=ReplaceTransfer)
    role: ClassVar[Role] = "variant"

    @property
    def leaves_unused(self) -> bool:
        """A step in which an expert is heard leaves CLIP's first layer out of its graph."""
        return True


@MODELS.register_module()
class ToVEConcat(ToVE):
    """ToVE whose language model reads an MLP of CLIP's tokens and the mixture side by side."""

    sections: ClassVar[Sections] = _with(transfer=ConcatTransfer)
    role: ClassVar[Role] = "variant"


@MODELS.register_module()
class ToVECrossAttention(ToVE):
    """ToVE whose CLIP tokens attend to the experts' mixture."""

    sections: ClassVar[Sections] = _with(transfer=CrossAttentionTransfer)
    role: ClassVar[Role] = "variant"


@MODELS.register_module()
class ToVESeparateLayers(ToVE):
    """ToVE whose experts share no layer."""

    sections: ClassVar[Sections] = _with(projector=SeparateLayers)
    role: ClassVar[Role] = "variant"
    slot_parts = (*ToVE.slot_parts, "projector.second")
