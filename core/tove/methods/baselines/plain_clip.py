"""Plain CLIP: t_fuse = v = P_clip(t_clip). No expert, nothing added.

It is also what a merge leaves behind: the same model around an encoder that has learned.

Shapes: B batch, N tokens on CLIP's grid, C CLIP width, D language width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from tove.methods.projected_experts import ProjectedExperts, make_projector
from tove.methods.vision_language_model import Fused, VisionLanguageModel
from tove.protocols import OnOtherExperts, Role
from tove.registry import MODELS

__all__ = ["PlainCLIP"]


@MODELS.register_module()
class PlainCLIP(VisionLanguageModel):
    """CLIP's tokens, projected.

    Args:
        encoder: config or module, see `tove.backbones.clip.encoder`.
        language: config or module, see `tove.backbones.language.causal_lm`.
        projector: dict(hidden=...) of `Projector`; hidden is the language width where it is not
            given.
        token_cache: see `VisionLanguageModel`.
        init_from: see `VisionLanguageModel`.
        generation: see `VisionLanguageModel`.
        data_preprocessor: see `VisionLanguageModel`.
    """

    sections = ProjectedExperts.sections
    role: ClassVar[Role] = "plain"
    on_other_experts: ClassVar[OnOtherExperts] = "keep"

    def __init__(
        self,
        encoder: dict | nn.Module,
        language: dict | nn.Module,
        projector: Mapping[str, Any] | None = None,
        token_cache: Mapping[str, Any] | None = None,
        init_from: str | None = None,
        generation: Mapping[str, Any] | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(
            encoder,
            language,
            token_cache=token_cache,
            init_from=init_from,
            generation=generation,
            data_preprocessor=data_preprocessor,
        )
        self.projector = make_projector(self.encoder, self.language, self.hub, projector)
        self.settle()

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return v."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        return Fused(v_BND, v_BND)

    def deployed(self) -> dict[str, Tensor]:
        """Return its own state, with the encoder's weights."""
        encoder = {f"encoder.{name}": p for name, p in self.encoder.named_parameters()}
        return {**self.state_dict(), **encoder}
