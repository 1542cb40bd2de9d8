"""Prismer's experts resampler (arXiv 2303.02506, section 3.2): learned queries read all experts.

    x   = [P_1(t_1) + e_1; ...; P_K(t_K) + e_K]             every expert's tokens, e_k learned
    q_0 = learned latents;  q_l = q + attention(q, [x; q]);  q_{l+1} = q_l + FFN(q_l)
    t_fuse = [v; q_L]                                       N + Q tokens are read, whatever K is

From the paper's description: a perceiver resampler (Flamingo's, arXiv 2204.14198) that turns a
variable number of expert features into a fixed number of tokens, which are concatenated to those
of the RGB image. Depth and number of queries are ours.

Shapes: B batch, N tokens on CLIP's grid, C CLIP width, D language width, M expert tokens in all,
Q queries.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from tove.config.validation import Range
from tove.methods.projected_experts import ProjectedExperts
from tove.methods.vision_language_model import Fused
from tove.protocols import Role
from tove.registry import MODELS

__all__ = ["ExpertsResampler", "PrismerResampler"]


class _Layer(nn.Module):
    """One layer: the queries read what there is and themselves, then think."""

    def __init__(self, width: int, num_heads: int, expansion: int) -> None:
        super().__init__()
        self.norm_tokens, self.norm_queries = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, expansion * width),
            nn.GELU(),
            nn.Linear(expansion * width, width),
        )

    def forward(self, queries_BQD: Tensor, tokens_BMD: Tensor) -> Tensor:
        queries = self.norm_queries(queries_BQD)
        read = torch.cat([self.norm_tokens(tokens_BMD), queries], 1)
        queries_BQD = queries_BQD + self.attention(queries, read, read, need_weights=False)[0]
        return queries_BQD + self.ffn(queries_BQD)


class ExpertsResampler(nn.Module):
    """From any number of tokens to a fixed one.

    Args:
        width: of the tokens, and of the result.
        num_queries: Q.
        num_layers: of attention and feed-forward.
        num_heads: must divide `width`.
        expansion: of the feed-forward layers.
    """

    def __init__(
        self,
        width: int,
        num_queries: Annotated[int, Range(1)] = 64,
        num_layers: Annotated[int, Range(1)] = 2,
        num_heads: Annotated[int, Range(1)] = 4,
        expansion: Annotated[int, Range(1)] = 2,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, width))
        self.layers = nn.ModuleList(_Layer(width, num_heads, expansion) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BMD: Tensor) -> Tensor:
        """Return [B, Q, D] of tokens [B, M, D]."""
        queries_BQD = self.queries.repeat(len(tokens_BMD), 1, 1)
        for layer in self.layers:
            queries_BQD = layer(queries_BQD, tokens_BMD)
        return self.norm(queries_BQD)


@MODELS.register_module()
class PrismerResampler(ProjectedExperts):
    """Learned queries over all experts' tokens, read behind CLIP's.

    Args:
        resampler: options of `ExpertsResampler`.
        **options: those of `ProjectedExperts`.
    """

    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "resampler": (ExpertsResampler, ("width",)),
        **ProjectedExperts.sections,
    }
    role: ClassVar[Role] = "variant"
    detachable = True
    slot_parts = ("hub.experts", "projector.first", "kinds")

    def __init__(
        self,
        resampler: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(**options)
        width = self.language.width
        self.resampler = ExpertsResampler(width, **(resampler or {}))
        self.kinds = nn.ParameterDict(
            {slot: 0.02 * torch.randn(width) for slot in self.hub.attached}
        )
        self.settle()

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return [B, N + Q, D]."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        if not tokens:
            return Fused(v_BND, v_BND)
        seen = [self.projector.project_expert(s, tokens[s]) + self.kinds[s] for s in tokens]
        return Fused(torch.cat([v_BND, self.resampler(torch.cat(seen, 1))], 1), v_BND)
