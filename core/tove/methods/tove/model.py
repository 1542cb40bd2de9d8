"""ToVE: transferring vision experts' knowledge to CLIP tokens (arXiv 2504.00691), as composed here.

    image -> CLIP      -> t_clip            -> v = P_clip(t_clip)
    image -> expert k  -> t_k               -> z = sum_k g_k P_k(t_k),   g = gate(t_clip)
    t_fuse = v + lambda * MLP_t(z)          -> frozen language model + trained adapters -> text
    loss   = L_lm + balance_weight * L_balance

`ToVE.fuse` follows one batch of images through all of it. The arms `baseline` (a parameter-matched
MLP on CLIP's tokens) and `plain` (t_fuse = v) are what the experts are measured against.

Shapes: B batch, N tokens on CLIP's grid, D language width, K configured slots.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from tove.backbones.experts.hub import ExpertHub, check_slots, expert_specs
from tove.backbones.feature_cache.memory import TokenCache
from tove.backbones.preprocess import to_unit_range
from tove.config.build import build_part
from tove.engine.fingerprints import fingerprints
from tove.engine.seeding import agreed_generator
from tove.engine.trainable_state import (
    keep_frozen_weights_out,
    load_initial,
    load_trainable,
    slot_of,
)
from tove.errors import ConfigError
from tove.methods.tove.balance import balance_loss
from tove.methods.tove.gate import GateOutput, TokenGate
from tove.methods.tove.projector import Projector, first_layer
from tove.methods.tove.transfer import MatchedMLP, ResidualTransfer
from tove.protocols import Sample
from tove.registry import ENCODERS, LANGUAGE_MODELS, MODELS

__all__ = [
    "Fused",
    "ToVE",
]


@dataclass(frozen=True, slots=True)
class Fused:
    """What the vision side makes of one batch.

    Attributes:
        t_fuse: [B, N, D], what the language model reads.
        v: [B, N, D], plain CLIP's part of it.
        gates: weights [B, N, K]; None in the arms without experts.
        slots: the slot of every column of `gates`.
        absent: slots that took no part, detached or dropped.
    """

    t_fuse: Tensor
    v: Tensor
    gates: GateOutput | None = None
    slots: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()


@MODELS.register_module()
class ToVE(BaseModel):
    """A frozen CLIP and frozen experts in front of a frozen language model, joined by what trains.

    Args:
        encoder: config or module, see `tove.backbones.clip.encoder`.
        experts: by slot, see `tove.backbones.experts.hub.ExpertHub`.
        language: config or module, see `tove.backbones.language.causal_lm.CausalLanguageModel`.
        projector: dict(hidden=...) of `Projector`; hidden is the language width
            where it is not given.
        gate: options of `tove.methods.tove.gate.TokenGate`.
        transfer: options of `tove.methods.tove.transfer.ResidualTransfer`.
        balance_weight: alpha of the balance loss.
        expert_dropout: probability of a training step in which a random number of experts, one to
            all of them alike, sits out.
        arm: "tove"; "baseline": as many trained parameters, no experts; "plain": CLIP alone.
        detached: slots that are not built, looked up or run.
        token_cache: dict(max_gb=...) keeps frozen tokens of deterministic views in memory.
        init_from: safetensors file with some of the trained parameters to start from.
        generation: options of the language model's `generate`, for captions.
        data_preprocessor: mmengine's; the default only moves a batch to the device, without
            waiting for it.
    """

    # Arguments that are those of a part, with what of them the model gives itself: a config is
    # checked against them before anything is built.
    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "gate": (TokenGate, ("width", "slots", "headless")),
        "transfer": (ResidualTransfer, ("d_lang",)),
        "projector": (
            Projector,
            ("d_clip", "expert_widths", "grid", "expert_grids", "map_slots", "d_lang"),
        ),
        "token_cache": (TokenCache, ()),
    }

    def __init__(
        self,
        encoder: dict | nn.Module,
        experts: Mapping[str, Mapping[str, Any]],
        language: dict | nn.Module,
        projector: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
        transfer: Mapping[str, Any] | None = None,
        balance_weight: float = 0.01,
        expert_dropout: float = 0.0,
        arm: Literal["tove", "baseline", "plain"] = "tove",
        detached: Sequence[str] = (),
        token_cache: Mapping[str, Any] | None = None,
        init_from: str | None = None,
        generation: Mapping[str, Any] | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor or BaseDataPreprocessor(non_blocking=True))
        if arm not in ("tove", "baseline", "plain"):
            raise ConfigError(
                f"model.arm is {arm!r}, but it must be 'tove', 'baseline' or 'plain'."
            )
        self.arm, self.balance_weight, self.expert_dropout = arm, balance_weight, expert_dropout
        self.generation = dict(generation or {})
        self.cache = TokenCache(**token_cache) if token_cache else None
        self.encoder: Any = build_part(encoder, ENCODERS).requires_grad_(False)
        self.language: Any = build_part(language, LANGUAGE_MODELS)
        # Frozen parts draw random weights before theirs are loaded: put the generator back, so that
        # the arms of one seed start from the same projection.
        with torch.random.fork_rng(devices=[]):
            self.hub = ExpertHub(*((experts, detached) if arm == "tove" else ({}, ())))
        self.slots = self.hub.slots
        self._sources = {slot: sorted(cfg.items(), key=str) for slot, cfg in experts.items()}
        hidden = (projector or {}).get("hidden") or self.language.width
        self.projector = Projector(
            self.encoder.width,
            self.hub.widths,
            self.encoder.grid,
            self.hub.grids,
            hidden,
            self.language.width,
            [slot for slot, spec in self.hub.specs.items() if spec.tokens.kind == "map"],
        )
        options = dict(gate or {}), dict(transfer or {})
        if arm == "tove":
            self.gate = TokenGate(
                self.encoder.width, self.slots, headless=self.hub.detached, **options[0]
            )
            self.transfer: nn.Module = ResidualTransfer(self.language.width, **options[1])
        elif arm == "baseline":
            self.transfer = self._matched_mlp(experts, detached, hidden, *options)
        keep_frozen_weights_out(self)
        # Now, and not when it is asked for: a teacher's trained parts are frozen by then.
        self.frozen = fingerprints(encoder=self.encoder, language=self.language)
        self.train(self.training)
        if init_from is not None:
            load_initial(self, init_from)

    def _matched_mlp(
        self,
        experts: Mapping[str, Mapping[str, Any]],
        detached: Collection[str],
        hidden: int,
        gate: Mapping[str, Any],
        transfer: Mapping[str, Any],
    ) -> MatchedMLP:
        """Spend what arm "tove" would train on experts: first layers, gate, MLP_t, from specs."""
        check_slots(experts)
        d_clip, d_lang = self.encoder.width, self.language.width
        specs = expert_specs(experts, detached)
        with torch.device("meta"):
            extra = nn.ModuleList(
                first_layer(t.width, t.grid, self.encoder.grid, hidden, t.kind == "map")
                for t in (spec.tokens for spec in specs.values())
            )
            extra.append(TokenGate(d_clip, tuple(specs), **gate))
            extra.append(ResidualTransfer(d_lang, **transfer))
        budget = sum(parameter.numel() for parameter in extra.parameters())
        return MatchedMLP(d_clip, d_lang, budget, transfer.get("zero_init", True))

    def fuse(self, images: Tensor, image_ids: Sequence[str] | None = None) -> Fused:
        """Follow a batch of images [B, 3, H, W] (uint8, or floating in [0, 1]) to t_fuse [B, N, D].

        Args:
            images: the shared view.
            image_ids: one id per image, by which frozen tokens are cached.
        """
        images_BCHW = to_unit_range(images)
        t_clip_BNC = self._frozen("clip", self.encoder, images_BCHW, image_ids)
        absent = frozenset(self.hub.detached) | self._dropped()
        tokens = {
            slot: self._frozen(slot, partial(self.hub.run, slot), images_BCHW, image_ids)
            for slot in self.slots
            if slot not in absent
        }  # by slot, [B, M_k, D_k], on each expert's own grid
        return self.fuse_tokens(t_clip_BNC, tokens)

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Join what the frozen networks gave: CLIP's tokens and, by slot, those of the experts.

        Args:
            t_clip_BNC: CLIP's tokens, C their width.
            tokens: [B, M_k, D_k], on each expert's own grid; slots that are not in it sit out.
        """
        v_BND = self.projector.project_clip(t_clip_BNC)
        if self.arm == "plain":
            return Fused(v_BND, v_BND)
        if self.arm == "baseline":
            return Fused(self.transfer(v_BND, t_clip_BNC), v_BND)

        absent = frozenset(self.slots).difference(tokens)
        gates = self.gate(t_clip_BNC, absent)  # weights [B, N, K]
        if not tokens:
            return Fused(v_BND, v_BND, gates, self.slots, absent)
        z_BND = self.projector.mix(gates.weights, self.slots, tokens)
        return Fused(self.transfer(v_BND, z_BND), v_BND, gates, self.slots, absent)

    def gate_weights(self, images: Tensor, image_ids: Sequence[str] | None = None) -> Tensor:
        """Give g [B, N, K] as in `fuse`. The gate sees CLIP's tokens only, so no expert runs."""
        t_clip_BNC = self._frozen("clip", self.encoder, to_unit_range(images), image_ids)
        return self.gate(t_clip_BNC, frozenset(self.hub.detached)).weights

    @torch.no_grad()
    def _frozen(
        self,
        source: str,
        network: Callable[[Tensor], Tensor],
        images_BCHW: Tensor,
        image_ids: Sequence[str] | None,
    ) -> Tensor:
        """Run a frozen network, or take its tokens from the cache."""
        if self.cache is None or image_ids is None:
            return network(images_BCHW)
        # A cache may be shared by models that have another expert in a slot, or see another view.
        key = f"{source} {self._sources.get(source)} {tuple(images_BCHW.shape[2:])}"
        return self.cache.get_or_compute(key, image_ids, images_BCHW, network)

    def _dropped(self) -> frozenset[str]:
        """Draw which experts sit this training step out.

        Every number of them is as likely, from one to all: detachment goes down to none, so the
        model has to have met each. The draw is for the whole batch, and the same on all ranks.
        """
        if not (self.training and self.expert_dropout and self.slots):
            return frozenset()
        agreed = agreed_generator()
        if torch.rand((), generator=agreed).item() >= self.expert_dropout:
            return frozenset()
        number = int(torch.randint(1, len(self.slots) + 1, (), generator=agreed))
        order = torch.randperm(len(self.slots), generator=agreed).tolist()
        return frozenset(self.slots[i] for i in order[:number])

    def forward(
        self,
        images: Tensor,
        data_samples: list[Sample] | None = None,
        mode: Literal["loss", "predict", "tensor"] = "tensor",
    ) -> dict[str, Tensor] | list[Sample] | Tensor:
        """Run one batch.

        Args:
            images: [B, 3, H, W], uint8 or floating in [0, 1].
            data_samples: dicts with image_id, task, prompt, target, candidates, ...
            mode: "loss" gives a dict of losses; "predict" the samples with `prediction`;
                "tensor" t_fuse [B, N, D].
        """
        fused = self.fuse(images, _image_ids(data_samples))
        if mode == "loss":
            return self.losses(fused, data_samples or [])
        if mode == "predict":
            return self.answer(fused.t_fuse, data_samples or [])
        return fused.t_fuse

    def losses(self, fused: Fused, data_samples: list[Sample]) -> dict[str, Tensor]:
        """L_lm and the weighted L_balance; mmengine sums and back-propagates what says "loss"."""
        prompts = [sample["prompt"] for sample in data_samples]
        targets = [sample["target"] for sample in data_samples]
        losses = {"loss_lm": self.language.loss(fused.t_fuse, prompts, targets)}
        if fused.gates is not None:
            balance = balance_loss(fused.gates, fused.slots, fused.absent)
            losses["loss_balance"] = self.balance_weight * balance
        return losses

    @torch.no_grad()
    def answer(self, memory_BND: Tensor, data_samples: list[Sample]) -> list[Sample]:
        """Give the samples with `prediction`: text for captions, a candidate's index otherwise."""
        answered = [dict(sample) for sample in data_samples]
        for task in dict.fromkeys(sample["task"] for sample in answered):
            rows = [row for row, sample in enumerate(answered) if sample["task"] == task]
            whole = len(rows) == len(answered)
            self._answer_task(
                task, memory_BND if whole else memory_BND[rows], [answered[row] for row in rows]
            )
        return answered

    def _answer_task(self, task: str, memory_BND: Tensor, samples: list[Sample]) -> None:
        prompts = [sample["prompt"] for sample in samples]
        if task == "caption":
            texts = self.language.generate(memory_BND, prompts, **self.generation)
            for sample, text in zip(samples, texts, strict=True):
                sample["prediction"] = text
        elif task in ("statement", "question"):
            candidates = [sample["candidates"] for sample in samples]
            all_scores = self.language.rank(memory_BND, prompts, candidates)
            for sample, scores in zip(samples, all_scores, strict=True):
                if any(math.isnan(score) for score in scores):
                    raise ConfigError(
                        f"The model gives {sample['image_id']} no likelihood (NaN), so its answers "
                        "mean nothing; use a checkpoint of a training that did not diverge."
                    )
                sample.update(scores=scores, prediction=scores.index(max(scores)))

    def train(self, mode: bool = True) -> "ToVE":
        """Set the trained parts' mode; CLIP and the experts are always in eval."""
        super().train(mode)
        self.encoder.eval()
        return self

    def init_weights(self) -> None:
        """Do nothing: mmengine's walk re-initialises pretrained parts that have such a method."""

    def load_trainable(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load trained parameters, strictly but for experts that come or go by slot name.

        Raises:
            CheckpointError: keys are missing or unexpected, or shapes differ.
        """
        load_trainable(self, state_dict)

    def slim_state_dict(self) -> dict[str, Tensor]:
        """Give the state without what belongs to detached slots.

        It fits a model that is built with the same `detached`.
        """
        return {n: t for n, t in self.state_dict().items() if slot_of(n) not in self.hub.detached}


def _image_ids(data_samples: list[Sample] | None) -> list[str] | None:
    """Name each sample's view of its image, which frozen tokens are kept by."""
    if not data_samples:
        return None
    return [f"{sample.get('view', '')} {sample['image_id']}" for sample in data_samples]
