"""ToVE: transferring vision experts' knowledge to CLIP tokens (arXiv 2504.00691), as composed here.

    image -> CLIP      -> t_clip            -> v = P_clip(t_clip)
    image -> expert k  -> t_k               -> z = sum_k g_k P_k(t_k),   g = gate(t_clip)
    t_fuse = v + lambda * MLP_t(z)          -> frozen language model + trained adapters -> text
    loss   = L_lm + balance_weight * L_balance  [+ weight * d(P_clip(CLIP'(image)), t_fuse)]

`ToVE.fuse_tokens` is the whole of it; what comes before and after is every method's.

Shapes: B batch, N tokens on CLIP's grid, D language width, K configured slots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from tove.backbones.preprocess import to_unit_range
from tove.config.validation import Range
from tove.engine.trainable_state import slot_of
from tove.methods.batch import encoded
from tove.methods.projected_experts import ProjectedExperts, plain_state
from tove.methods.tove.balance import balance_loss
from tove.methods.tove.expert_dropout import draw_dropped
from tove.methods.tove.gate import TokenGate
from tove.methods.tove.merging import JointMerging, token_distance
from tove.methods.tove.transfer import ResidualTransfer
from tove.methods.vision_language_model import Fused, Views, VisionLanguageModel
from tove.protocols import OnOtherExperts, Sample
from tove.registry import MODELS

__all__ = ["ToVE"]


@MODELS.register_module()
class ToVE(ProjectedExperts):
    """A gate mixes the experts' tokens, a residual transfer adds them to CLIP's.

    Args:
        gate: options of `TokenGate`.
        transfer: options of `ResidualTransfer`.
        balance_weight: alpha of the balance loss.
        expert_dropout: probability of a training step in which a random number of experts, one to
            all of them alike, sits out.
        merging: options of `JointMerging`: the student of the merge trains along, and needs no
            stage of its own; None leaves that to a MergeStage.
        **options: those of `ProjectedExperts`: encoder, experts, language, projector, ...
    """

    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "gate": (TokenGate, ("width", "slots", "headless", "expert_width")),
        "transfer": (ResidualTransfer, ("d_lang", "d_in")),
        "merging": (JointMerging, ("encoder",)),
        **ProjectedExperts.sections,
    }
    on_other_experts: ClassVar[OnOtherExperts] = "carry over"
    detachable = True
    slot_parts: tuple[str, ...] = (
        "hub.experts",
        "projector.first",
        "gate.heads",
        "gate.noise_heads",
        "gate.own_heads",
    )
    beside_fusion = (*VisionLanguageModel.beside_fusion, "merging")

    def __init__(
        self,
        *,
        gate: Mapping[str, Any] | None = None,
        transfer: Mapping[str, Any] | None = None,
        balance_weight: Annotated[float, Range(0)] = 0.01,
        expert_dropout: Annotated[float, Range(0, 1, below=True)] = 0.0,
        merging: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(**options)
        self.balance_weight, self.expert_dropout = balance_weight, expert_dropout
        self.gate = self._make_gate(gate or {})
        make_transfer = self.sections["transfer"][0]
        self.transfer = make_transfer(self.language.width, **(transfer or {}))
        self.merging = None if merging is None else JointMerging(self.encoder, **merging)
        self.settle()

    def _make_gate(self, options: Mapping[str, Any]) -> nn.Module:
        return TokenGate(
            self.encoder.width,
            self.slots,
            headless=self.hub.detached,
            expert_width=self.projector.shared.in_features,
            **options,
        )

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return t_fuse = v + lambda MLP_t(sum_k g_k P_k(t_k)); without experts it is v."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        absent = frozenset(self.slots).difference(tokens)
        seen = self._seen_by_gate(tokens)
        gates = self.gate(t_clip_BNC, absent, seen)  # weights [B, N, K]
        if not tokens:
            return Fused(v_BND, v_BND, gates, self.slots, absent)
        z_BND = self.projector.mix(gates.weights, self.slots, tokens, seen)
        return Fused(self.transfer(v_BND, z_BND), v_BND, gates, self.slots, absent)

    def _seen_by_gate(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return GELU(W_k t_k + b_k) [B, N, H] by slot; none for a gate that sees CLIP alone."""
        if not self.gate.sees_experts:
            return {}
        return {slot: self.projector.hidden_tokens(slot, t) for slot, t in tokens.items()}

    def gate_weights(self, images: Tensor, image_ids: Sequence[str] | None = None) -> Tensor:
        """Return g [B, N, K] as in `fuse`; no expert runs where the gate sees CLIP alone."""
        images_BCHW, absent = to_unit_range(images), frozenset(self.hub.detached)
        t_clip_BNC = self.encode(images_BCHW, image_ids)
        unseen = absent if self.gate.sees_experts else self.slots
        tokens = self._tokens_but(unseen, images_BCHW, image_ids)
        weights: Tensor = self.gate(t_clip_BNC, absent, self._seen_by_gate(tokens)).weights
        return weights

    def dropped(self) -> frozenset[str]:
        """Return the experts that sit this training step out."""
        if not self.training:
            return frozenset()
        return draw_dropped(self.slots, self.expert_dropout, self.shared_generator)

    def fuse(
        self,
        images: Tensor,
        image_ids: Sequence[str] | None = None,
        views: Views | None = None,
    ) -> Fused:
        """Follow images to t_fuse; where a student trains along, its distance comes with them."""
        fused = super().fuse(images, image_ids, views)
        if self.merging is None or not self.training:
            return fused
        predicted_BND = self.plain_tokens(encoded(self.merging, to_unit_range(images)))
        pair = predicted_BND, fused.t_fuse.detach()
        distance = token_distance(self.merging.loss, self.language, *pair)
        return replace(fused, losses={"loss_merge": self.merging.weight * distance})

    def losses(self, fused: Fused, data_samples: list[Sample]) -> dict[str, Tensor]:
        """Return L_lm, the weighted L_balance, and what `fuse` has brought."""
        losses = super().losses(fused, data_samples)
        balance = balance_loss(fused.gates, fused.slots, fused.absent)
        losses["loss_balance"] = self.balance_weight * balance
        return losses

    def deployed(self) -> dict[str, Tensor] | None:
        """Return plain CLIP around the student; None where none trains along."""
        if self.merging is None:
            return None
        return plain_state(self.state_dict(), self.merging.folded())

    @property
    def needs_pixels(self) -> bool:
        """Whether a training step looks at an image whose frozen tokens are all known."""
        trains = any(parameter.requires_grad for parameter in self.encoder.parameters())
        return trains or self.merging is not None

    @property
    def leaves_unused(self) -> bool:
        """Whether a step may leave trained parameters out of its graph."""
        return self.expert_dropout > 0 or not self.hub.attached

    def slim_state_dict(self) -> dict[str, Tensor]:
        """Return the state without what belongs to detached slots.

        It fits a model that is built with the same `detached`.
        """
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if slot_of(name, self.slot_parts) not in self.hub.detached
        }
