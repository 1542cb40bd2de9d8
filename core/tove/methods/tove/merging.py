"""Merging the experts' knowledge into one encoder (ToVE-lite; ToVE's figure 4, our reading).

    target     = stop_gradient(t_fuse(image))              the teacher: CLIP, experts, gate, MLP_t
    prediction = P_clip(CLIP'(image))                      the student: a copy of CLIP that trains
    loss       = d(prediction, target) + lm_weight * L_lm(prediction) + keep * d_class
    d          = mse | 1 - cosine | smooth-L1, mean over tokens
                 readout: mse of what the language model's cross-attention reads (keys and values);
                 of one that reads the tokens themselves, mse
                 fisher: by how much the language model minds an error, see `fisher`
    d_class    = 1 - cosine of the class tokens of CLIP' and CLIP

P_clip, the language model and its adapters are the teacher's and stay as they are: afterwards the
student takes CLIP's place in front of them, and experts, gate and MLP_t go.

Shapes: B batch, N tokens, D language width.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from tove.backbones.preprocess import to_unit_range
from tove.config.build import build_part
from tove.config.validation import Range
from tove.engine.trainable_state import keep_frozen_weights_out, load_trainable
from tove.errors import ConfigError
from tove.methods.batch import Views, encoded, read_by, view_ids
from tove.methods.projected_experts import plain_state
from tove.methods.tove.fisher import fisher_distance, fisher_metric
from tove.methods.tove.student import fold_lora, make_student
from tove.methods.vision_language_model import Fused, VisionLanguageModel
from tove.modules.collectives import global_mean
from tove.protocols import Sample
from tove.registry import MODELS

__all__ = [
    "LOSSES",
    "JointMerging",
    "Merge",
    "token_distance",
]


def _cosine(prediction_BND: Tensor, target_BND: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(prediction_BND, target_BND, dim=-1).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "cosine": _cosine,
    "smooth_l1": F.smooth_l1_loss,
}


def token_distance(
    loss: str,
    reader: Any,  # noqa: ANN401
    prediction_BND: Tensor,
    target_BND: Tensor,
) -> Tensor:
    """Compare P_clip(CLIP'(image)) with t_fuse; a scalar.

    Under torch.distributed the mean counts for as many views as this rank has of them: DDP's mean
    of the gradients is that of one process with the whole batch.

    Args:
        loss: one of `LOSSES`, "readout" or "fisher".
        reader: of "readout" the language model, whose keys and values are compared; where it has no
            `read`, as a chat model that reads soft tokens, the tokens are. Of "fisher" M, [D, D].
        prediction_BND: the student's.
        target_BND: the teacher's.
    """
    number = torch.full((), len(prediction_BND), device=prediction_BND.device).float()
    share = global_mean(number, number)
    if not prediction_BND.numel():  # a batch of text alone: zero, as its gradient is
        return prediction_BND.sum()
    if loss == "fisher":
        return share * fisher_distance(reader, prediction_BND, target_BND)
    if loss == "readout":
        if read := getattr(reader, "read", None):
            prediction_BND, target_BND = read(prediction_BND), read(target_BND)
        return share * F.mse_loss(prediction_BND, target_BND)
    return share * LOSSES[loss](prediction_BND, target_BND)


def _says_something(sample: Sample) -> bool:
    return bool(sample.get("target") or sample.get("conversations"))


class JointMerging(nn.Module):
    """The student that trains beside the method: the paper's auxiliary learning target.

        L = L_lm + alpha L_balance + beta d(P_clip(CLIP'(image)), stop_gradient(t_fuse))

    Args:
        encoder: CLIP, frozen.
        weight: beta.
        student: see `Merge`.
        loss: see `Merge`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        weight: Annotated[float, Range(0)] = 1.0,
        student: Literal["full", "lora"] | Mapping[str, Any] = "full",
        loss: Literal["mse", "cosine", "smooth_l1", "readout"] = "mse",
    ) -> None:
        super().__init__()
        self.weight, self.loss = weight, loss
        self.student: Any = make_student(encoder, student)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return CLIP'(image), [B, N, C]."""
        tokens: Tensor = self.student(images_BCHW)
        return tokens

    def folded(self) -> nn.Module:
        """Return the student as an ordinary encoder, a frozen copy with LoRA folded in."""
        return fold_lora(deepcopy(self.student)).requires_grad_(False).eval()


@MODELS.register_module()
class Merge(BaseModel):
    """Teach a copy of CLIP to give what CLIP and the experts give together.

    Args:
        teacher: a trained model of any method with a `projector`, or the config of one.
        student: dict(trainable=...) with "full" (all that the tokens depend on), or with
            dict(type="lora", r=..., ...), the rest being arguments of peft's LoraConfig.
        loss: "mse", "cosine" or "smooth_l1" of t_fuse; "readout" is the mse of its keys and values
            in the language model: what no layer reads need not be learned; "fisher" weighs each
            direction by what an error in it costs the language model on the data with text, and
            wants `fit_metric` before it trains.
        lm_weight: weight of the language loss on samples with a target; 0 needs no targets.
        keep: weight of the class token's distance from CLIP's own, which zero-shot retrieval reads
            (through blocks that stay as they are, if the tokens are not of the last); 0 lets it go.
        data_preprocessor: mmengine's.
    """

    given_later = ("teacher",)  # by the merge stage

    def __init__(
        self,
        teacher: Mapping[str, Any] | VisionLanguageModel,
        student: Literal["full", "lora"] | Mapping[str, Any] = "full",
        loss: Literal["mse", "cosine", "smooth_l1", "readout", "fisher"] = "mse",
        lm_weight: Annotated[float, Range(0)] = 0.0,
        keep: Annotated[float, Range(0)] = 0.0,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.loss, self.lm_weight, self.keep = loss, lm_weight, keep
        self.teacher: VisionLanguageModel = build_part(teacher, MODELS)
        self.slot_parts = tuple(f"teacher.{part}" for part in self.teacher.slot_parts)
        self.student: Any = make_student(self.teacher.plain_encoder(), student)
        if keep and not getattr(self.student, "has_class_token", False):
            raise ConfigError(
                f"model.keep is {keep}, but {type(self.student).__name__} has no class token of "
                "this checkpoint that it could be kept by; leave it out."
            )
        own = [f"teacher.{name}" for name in self.teacher.state_dict()]
        if loss == "fisher":
            self.register_buffer("metric_DD", torch.eye(self.teacher.language.width))
            own.append("metric_DD")  # a resumed training has the same
        self.teacher.requires_grad_(False)
        keep_frozen_weights_out(self, also=own)
        self.train(self.training)

    def predict_tokens(self, images: Tensor) -> Tensor:
        """Give P_clip(CLIP'(image)), [B, N, D], of images [B, 3, H, W]."""
        return self.teacher.plain_tokens(encoded(self.student, to_unit_range(images)))

    def fuse(self, images: Tensor, image_ids: list[str] | None = None) -> Fused:
        """Give what the language model reads once experts, gate and MLP_t are gone."""
        prediction_BND = self.predict_tokens(images)
        return Fused(prediction_BND, prediction_BND)

    def forward(
        self,
        images: Tensor,
        data_samples: list[Sample] | None = None,
        mode: Literal["loss", "predict", "tensor"] = "tensor",
        content: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> dict[str, Tensor] | list[Sample] | Tensor:
        """Run one batch; as in `VisionLanguageModel.forward`, with the student in CLIP's place."""
        samples = data_samples or []
        if mode != "loss":
            prediction_BND = self.predict_tokens(images)
            answers = mode == "predict"
            return self.teacher.answer(prediction_BND, samples) if answers else prediction_BND
        first = 1 if self.keep else 0  # then the class token comes along
        network: Any = self.student.encode if first else self.student
        tokens_BPC = encoded(network, to_unit_range(images))
        prediction_BND = self.teacher.plain_tokens(tokens_BPC[:, first:])
        with torch.no_grad():
            views, image_ids = Views.of(content, owner, samples), view_ids(samples)
            target_BND = self.teacher.fuse(images, image_ids, views).t_fuse
        losses = {"loss_merge": self.distance(prediction_BND, target_BND)}
        if self.keep:
            distance = self._class_distance(tokens_BPC[:, 0], images, image_ids)
            losses["loss_keep"] = self.keep * distance
        if self.lm_weight:
            losses["loss_lm"] = self.lm_weight * self._language_loss(prediction_BND, samples)
        return losses

    def fit_metric(self, batches: Iterable[Mapping[str, Any]], seed: int) -> None:
        """Take the Fisher metric from images with text, see `fisher_metric`."""
        self.metric_DD = fisher_metric(self.teacher, batches, seed)

    def distance(self, prediction_BND: Tensor, target_BND: Tensor) -> Tensor:
        """Compare P_clip(CLIP'(image)) with t_fuse, both [B, N, D]; a scalar."""
        read = self.metric_DD if self.loss == "fisher" else self.teacher.language
        return token_distance(self.loss, read, prediction_BND, target_BND)

    def _class_distance(
        self, class_BC: Tensor, images: Tensor, image_ids: list[str] | None
    ) -> Tensor:
        """Compare the class token with that of CLIP as it was, 1 - cosine; a scalar."""
        clip: Any = self.teacher.plain_encoder()

        @torch.no_grad()
        def own_class(rows: list[int]) -> Tensor:
            tokens_BPC: Tensor = encoded(clip.encode, to_unit_range(images[rows]))
            return tokens_BPC[:, 0]

        memory = None if self.teacher.cache is None else self.teacher.cache.memory
        if memory is not None and image_ids:  # frozen as CLIP's other tokens are, and small
            kind = f"class token {tuple(images.shape[2:])}"
            own_BC = memory.get_or_compute(kind, image_ids, own_class, images.device)
        else:
            own_BC = own_class([*range(len(images))])
        return token_distance("cosine", None, class_BC, own_BC)

    def _language_loss(self, prediction_BND: Tensor, samples: list[Sample]) -> Tensor:
        """L_lm on the samples that have a target; unlabelled images have none."""
        labelled = [row for row, sample in enumerate(samples) if _says_something(sample)]
        # All ranks have to take part in the loss's normalisation: one without a target sends a
        # sample that counts for nothing.
        rows = labelled or [0]
        vision = read_by(self.teacher.images_of(prediction_BND, samples), samples, rows)
        asked = [
            {**s, "prompt": s.get("prompt", ""), "target": s.get("target") or None}
            for s in (samples[row] for row in rows)
        ]
        return self.teacher.language.loss(vision, asked)

    def train(self, mode: bool = True) -> "Merge":
        """Set the student's mode; the teacher is always in eval."""
        super().train(mode)
        self.teacher.eval()
        return self

    def init_weights(self) -> None:
        """Do nothing: mmengine's walk re-initialises pretrained parts that have such a method."""

    def load_trainable(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load student and teacher parameters, strictly but for experts that come or go.

        Raises:
            CheckpointError: keys are missing or unexpected, or shapes differ.
        """
        load_trainable(self, state_dict)

    def plain_encoder(self) -> nn.Module:
        """Return the teacher's."""
        return self.teacher.plain_encoder()

    def deployed_encoder(self) -> nn.Module:
        """Return the teacher's plain one."""
        return self.plain_encoder()

    def deployed(self) -> dict[str, Tensor]:
        """Return the state of plain CLIP around the student: P_clip and the language side stay."""
        return plain_state(self.teacher.state_dict(), self.merged_encoder())

    def merged_encoder(self) -> nn.Module:
        """Give the student as an ordinary encoder, a frozen copy with LoRA folded in."""
        return fold_lora(deepcopy(self.student)).requires_grad_(False).eval()
