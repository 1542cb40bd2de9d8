"""MoVE-KD as a method: a student CLIP that learns from teachers while a language model reads it.

    image -> student (CLIP with MoLE)   -> v            -> projector -> language model -> L_text
    image -> teacher CLIP, experts      -> Y_0, Y_t     L_kd = mean_b sum_t w_t l_t(v, Y_t)
    L = L_text + kd_weight L_kd + balance_weight L_balance

Teachers run in training only: what is measured, and answers, is the student alone. The experts of
the hub are the teachers, so another teacher is one line of a config; CLIP is always one of them, a
copy of the student as it was.

What of a batch counts, and how each teacher sees it, tells `taking_part`.

Shapes: B views, N patches on CLIP's grid, C CLIP width, D language width, T teachers (CLIP first).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.backbones.preprocess import to_unit_range
from tove.errors import ConfigError
from tove.methods.batch import encoded
from tove.methods.move_kd.attention_weights import (
    class_attention,
    teacher_weights,
    token_weights,
    with_clip_share,
)
from tove.methods.move_kd.balance import routing_balance
from tove.methods.move_kd.loss import distillation_loss, mean_over_tokens, token_errors
from tove.methods.move_kd.mole import MoLE, record_routing
from tove.methods.move_kd.mole_clip import MoLECLIP
from tove.methods.move_kd.mole_injection import inject_mole, mole_layers
from tove.methods.move_kd.presets import read_switches
from tove.methods.move_kd.sam_layout import check_sam_map, released_sam_tokens
from tove.methods.move_kd.taking_part import TakingPart, check_view, taking_part
from tove.methods.move_kd.teacher_adapter import StudentHead, make_adapter, output_variance
from tove.methods.move_kd.teacher_dropping import kept_teachers
from tove.methods.projected_experts import PROJECTOR, make_projector, plain_state
from tove.methods.vision_language_model import Fused, Views, VisionLanguageModel
from tove.modules.resample import resample_tokens
from tove.modules.token_norm import TokenNorm
from tove.protocols import OnOtherExperts
from tove.registry import MODELS

__all__ = ["MoVEKD"]

_SAM = "sam"  # the slot whose map `sam_layout` is about, as the release calls this teacher


@MODELS.register_module()
class MoVEKD(VisionLanguageModel):
    """A student that is distilled into while it is read.

    Args:
        encoder: config or module of the student's CLIP, see `tove.backbones.clip.encoder`.
        experts: the teachers beside CLIP, by slot.
        language: config or module, see `tove.backbones.language.causal_lm`.
        projector: dict(hidden=...) of `Projector`.
        preset: readings of the paper's and the release's equations, see `presets`.
        switches: those of the preset that are moved.
        mole: dict(num_experts=..., rank=..., alpha=..., dropout=...) of `MoLE`; None leaves the
            student without one.
        student: what of the student's own weights trains: none ("frozen": its MoLE alone), or
            all that the tokens depend on ("full").
        token_norm: of the teachers' tokens before they are compared; the paper's are as they come.
        **options: those of `VisionLanguageModel`.
    """

    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "mole": (MoLE, ("ffn", "routing", "placement", "init", "router_gradient")),
        "projector": PROJECTOR,
        "token_cache": (TokenCache, ()),
    }
    on_other_experts: ClassVar[OnOtherExperts] = "refuse"  # what taught it is part of it
    teachers_only: ClassVar[bool] = True
    slot_parts = ("hub.experts", "adapters")
    beside_fusion = (*VisionLanguageModel.beside_fusion, "clip", "adapters")

    def __init__(
        self,
        encoder: dict | nn.Module,
        experts: Mapping[str, Mapping[str, Any]],
        language: dict | nn.Module,
        projector: Mapping[str, Any] | None = None,
        preset: Literal["paper", "released", "fixed"] = "paper",
        switches: Mapping[str, Any] | None = None,
        mole: Mapping[str, Any] | None = None,
        student: Literal["frozen", "full"] = "frozen",
        token_norm: TokenNorm = "none",
        **options: Any,  # noqa: ANN401 - those of the base
    ) -> None:
        super().__init__(encoder, language, experts, token_norm=token_norm, **options)
        self.switches = read_switches(preset, switches)
        if mole is None and student == "frozen":
            raise ConfigError(
                "MoVEKD's student has neither MoLE nor weights of its own to train; give "
                "model.mole=dict(...), or model.student='full'."
            )
        self.clip = deepcopy(self.encoder)  # the teacher: the student as it was
        self.projector = make_projector(self.encoder, self.language, ExpertHub({}), projector)
        self._make_student(mole, student)
        self._make_adapters()
        self.settle()

    def _make_student(self, mole: Mapping[str, Any] | None, student: str) -> None:
        if student == "full":
            for _, parameter in self.encoder.used_parameters():
                parameter.requires_grad_(True)
        if mole is not None:
            read = self.switches
            inject_mole(
                self.encoder,
                read.mole_layers,
                routing=read.routing,
                placement=read.placement,
                init=read.init,
                router_gradient=read.router_gradient,
                **mole,
            )

    def _make_adapters(self) -> None:
        """Make what brings each teacher to the student."""
        own = self.encoder.width, self.encoder.grid
        theirs = {s: (self.hub.widths[s], self.hub.grids[s]) for s in self.hub.attached}
        if self.switches.sam_layout == "released" and _SAM in theirs:
            check_sam_map(*theirs[_SAM])
        kind = self.switches.adapter
        self.adapters = nn.ModuleDict({s: make_adapter(kind, t, own) for s, t in theirs.items()})

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Return what the student alone gives: P(v)."""
        v_BND = self.projector.project_clip(t_clip_BNC)
        return Fused(v_BND, v_BND)

    @property
    def leaves_unused(self) -> bool:
        """Whether a step may leave trained parameters out: the LoRA pairs above the tokens do."""
        return self.switches.mole_layers == "all"

    def check_view(self, kind: str) -> None:
        """Refuse data whose images are shown in a way that the switches do not know."""
        check_view(self.switches, kind)

    def encode(self, images_VCHW: Tensor, image_ids: Sequence[str] | None = None) -> Tensor:
        """Return the student's tokens [V, N, C] of images in [0, 1]; never those of a cache."""
        return encoded(self.encoder, images_VCHW)

    def fuse(
        self,
        images: Tensor,
        image_ids: Sequence[str] | None = None,
        views: Views | None = None,
    ) -> Fused:
        """Follow images through the student; in training the teachers' losses come along."""
        images_BCHW = to_unit_range(images)
        if not self.training:
            return self.fuse_tokens(self.encode(images_BCHW), {})
        part = taking_part(self.switches, images_BCHW, image_ids, views, self.encoder.grid)
        with record_routing(self.encoder) as routing:
            v_BNC = self.encode(part.images_VCHW)
        losses = self._distil(v_BNC, part)
        if routing:
            counted = part.valid_VP, part.weights_V
            balance = routing_balance(routing, self.switches.balance, *counted)
            losses["loss_balance"] = self.switches.balance_weight * balance
        fused = self.fuse_tokens(v_BNC[: len(images)], {})  # black images are not read
        return Fused(fused.t_fuse, fused.v, losses=losses)

    def _distil(self, v_BNC: Tensor, part: TakingPart) -> dict[str, Tensor]:
        """Return L_kd, and the variance of what each adapter gives beside the student's own."""
        read, valid_BN = self.switches, part.valid_VN
        cls_BC, clip_BNC, attention_BHP = self._teacher_clip(part.images_VCHW)
        predicted, targets = [v_BNC], [clip_BNC]
        seen = {"variance/student": output_variance(v_BNC, valid_BN)}
        for slot in self.hub.attached:
            prediction, target = self._pair(slot, v_BNC, self._teacher_tokens(slot, part))
            predicted.append(prediction)
            targets.append(target)
            seen[f"variance/{slot}"] = output_variance(target, valid_BN)
        errors = [token_errors(p, t) for p, t in zip(predicted, targets, strict=True)]
        errors_BTN = torch.stack(errors, 1)
        weights_BT = self._teacher_weights(cls_BC, targets[1:])
        if read.teacher_dropping and self.hub.attached:
            furthest_BT = mean_over_tokens(errors_BTN, valid_BN)
            weights_BT = weights_BT * kept_teachers(furthest_BT, read.teacher_dropping)
        tokens_BN = token_weights(attention_BHP, read.token_weight, valid_BN)
        distilled = distillation_loss(errors_BTN, weights_BT, tokens_BN, valid_BN, part.weights_V)
        return {"loss_kd": read.kd_weight * distilled.loss, **seen}

    def _teacher_tokens(self, slot: str, part: TakingPart) -> Tensor:
        """Return a teacher's tokens [B, M, K] of the views as it sees them."""
        seen = part.seen_by(self.hub.specs[slot].image)
        tokens_BMK = self.frozen_tokens(slot, seen.images_VCHW, seen.ids)
        if slot == _SAM and self.switches.sam_layout == "released":
            return released_sam_tokens(tokens_BMK, self.hub.grids[slot])
        return tokens_BMK

    def _pair(self, slot: str, v_BNC: Tensor, tokens_BMK: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is compared: student and adapted teacher, or a head and the teacher."""
        adapter, grid = self.adapters[slot], self.hub.grids[slot]
        if isinstance(adapter, StudentHead):
            target = resample_tokens(tokens_BMK, grid, self.encoder.grid)
            return adapter(v_BNC), target.to(v_BNC.dtype)
        if self.switches.adapter == "resample":
            return v_BNC, adapter(tokens_BMK, grid, self.encoder.grid)
        return v_BNC, adapter(tokens_BMK)

    def _teacher_weights(self, cls_BC: Tensor, adapted: Sequence[Tensor]) -> Tensor:
        if not adapted:
            return with_clip_share(cls_BC.new_zeros(len(cls_BC), 0))
        weights_BT = teacher_weights(cls_BC, adapted, self.switches.teacher_weight)
        return with_clip_share(weights_BT, self.switches.clip_share)

    @torch.no_grad()
    def _teacher_clip(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return CLIP's class token [B, C], its patches [B, N, C], and the attention [B, H, P].

        The attention is that of the class token in the block that makes these tokens.
        """
        states = deque(self.clip.hidden_states(images_BCHW), maxlen=2)  # no more are alive
        if len(states) < 2:
            raise ConfigError(
                "model.encoder.layer is 0, so no block makes the tokens and there is no attention "
                "to weigh them by; use a layer of 1 or more, or -1."
            )
        before_BPC, after_BPC = states
        block = [block for _, block in self.clip.blocks()][-1]
        return after_BPC[:, 0], after_BPC[:, 1:], class_attention(block, before_BPC)

    def part_of(self, name: str) -> str:
        """Return the part whose costs a module's or parameter's are; MoLE is one beside the rest.

        Args:
            name: in the model.
        """
        part = super().part_of(name)
        in_mole = part == "encoder" and {"down", "up", "around", "router"} & set(name.split("."))
        return "encoder.mole" if in_mole else part

    def plain_encoder(self) -> nn.Module:
        """Return CLIP as it was: MoLE depends on the token and cannot be folded into weights."""
        return self.clip

    def deployed_encoder(self) -> nn.Module:
        """Return the student: a CLIP of its library, or with MoLE a `MoLECLIP`."""
        if not mole_layers(self.encoder):
            return self.clip
        return MoLECLIP.around(self.encoder)

    def deployed(self) -> dict[str, Tensor]:
        """Return plain CLIP around the student, its MoLE among the encoder's weights."""
        return plain_state(self.state_dict(), self.encoder)

    def train(self, mode: bool = True) -> "MoVEKD":
        """Set the mode of what trains; MoLE's dropout is in the student, which is in eval else."""
        super().train(mode)
        if hasattr(self, "clip"):
            self.clip.eval()
        for layer in mole_layers(self.encoder):
            layer.training = mode
        return self
