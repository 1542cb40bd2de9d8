"""What all methods share: frozen encoder, experts and language model around `fuse_tokens`.

    image -> encoder  -> t_clip
    image -> expert k -> t_k            -> fuse_tokens(t_clip, {k: t_k}) -> tokens that are read
    loss  = L_lm(tokens) + what the method adds

A method derives from `VisionLanguageModel`, builds its trained parts in `__init__`, ends that with
`self.settle()`, and says in `fuse_tokens` what the language model is to read.

A batch is of views: an image for each sample, or in conversations any number, each one view or a
base view and tiles, behind each other. Methods see views; the language model reads images.

Shapes: V views (B samples where each has one), N tokens that are read, C encoder width, M_k tokens
of expert k, D language width.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.feature_cache.sources import frozen_sources, only_read
from tove.backbones.feature_cache.token_cache import TokenCache
from tove.backbones.preprocess import to_unit_range
from tove.config.build import build_part
from tove.engine.fingerprints import fingerprints
from tove.engine.trainable_state import (
    keep_frozen_weights_out,
    load_initial,
    load_trainable,
    slot_of,
)
from tove.methods.answers import answer
from tove.methods.batch import Fused, Views, encoded, tokens_of_images, view_ids
from tove.modules.tiles import Size
from tove.modules.token_norm import TokenNorm
from tove.protocols import CostPart, OnOtherExperts, Role, Sample, VisionTokens
from tove.registry import ENCODERS, LANGUAGE_MODELS

__all__ = ["Fused", "Views", "VisionLanguageModel"]


class VisionLanguageModel(BaseModel):
    """A frozen encoder and frozen experts in front of a language model.

    Args:
        encoder: config or module, see `tove.backbones.clip.encoder`.
        language: config or module, a `tove.protocols.LanguageModel`.
        experts: by slot, see `ExpertHub`.
        detached: slots that are not built, looked up or run.
        token_cache: options of `TokenCache`, which keeps frozen tokens in memory or on disk.
        token_norm: what brings the experts' tokens to one scale, see `tove.modules.token_norm`; an
            expert's own `token_norm` goes before it.
        init_from: safetensors file with some of the trained parameters to start from.
        generation: options of the language model's `generate`, for captions.
        data_preprocessor: mmengine's; the default only moves a batch to the device, without
            waiting for it.
    """

    # Arguments that are those of a part, with what of them the model gives itself: a config is
    # checked against them before anything is built.
    sections: ClassVar[Mapping[str, tuple[type, tuple[str, ...]]]] = {
        "token_cache": (TokenCache, ())
    }
    role: ClassVar[Role] = "method"
    on_other_experts: ClassVar[OnOtherExperts] = "begin again"
    detachable: ClassVar[bool] = False
    teachers_only: ClassVar[bool] = False
    slot_parts: tuple[str, ...] = ("hub.experts",)
    # Children that `fuse_tokens` does not run.
    beside_fusion: ClassVar[tuple[str, ...]] = ("encoder", "hub", "language", "data_preprocessor")
    # What all ranks draw alike comes from it; None, outside a training, is torch's own.
    shared_generator: torch.Generator | None = None

    def __init__(
        self,
        encoder: dict | nn.Module,
        language: dict | nn.Module,
        experts: Mapping[str, Mapping[str, Any]] | None = None,
        detached: Sequence[str] = (),
        token_cache: Mapping[str, Any] | None = None,
        token_norm: TokenNorm = "standardise",
        init_from: str | None = None,
        generation: Mapping[str, Any] | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor or BaseDataPreprocessor(non_blocking=True))
        self.generation, self._init_from = dict(generation or {}), init_from
        self.cache = TokenCache(**token_cache) if token_cache else None
        self.encoder: Any = build_part(encoder, ENCODERS).requires_grad_(False)
        self.language: Any = build_part(language, LANGUAGE_MODELS)
        # Frozen parts draw random weights before theirs are loaded: put the generator back, so that
        # all methods of one seed start from the same projection.
        with torch.random.fork_rng(devices=[]):
            unbuilt = only_read(self.cache, experts or {})
            self.hub = ExpertHub(experts or {}, detached, token_norm, unbuilt)
        self.slots = self.hub.slots
        self.sources = frozen_sources(self.encoder, self.hub, experts or {}, self.cache)

    def settle(self) -> None:
        """End a model's construction: what trains now is its own, all else is frozen and named.

        Now, and not when a checkpoint is written: a teacher's trained parts are frozen by then.
        """
        norms = self.hub.fitted_norms()
        statistics = [f"hub.experts.{s}.norm.{n}" for s in norms for n in norms[s].state_dict()]
        keep_frozen_weights_out(self, also=statistics)
        self.frozen = fingerprints(encoder=self.plain_encoder(), language=self.language)
        self.train(self.training)
        if self._init_from is not None:
            load_initial(self, self._init_from)

    # --- what a method says ---------------------------------------------------------------------

    def fuse_tokens(self, t_clip_BNC: Tensor, tokens: Mapping[str, Tensor]) -> Fused:
        """Join what the frozen networks gave into what the language model reads.

        Args:
            t_clip_BNC: the encoder's tokens.
            tokens: [V, M_k, D_k] by slot, on each expert's own grid; slots not in it sit out.
        """
        raise NotImplementedError

    def plain_tokens(self, t_clip_BNC: Tensor) -> Tensor:
        """Return what of t_fuse the encoder alone gives, v [V, N, D]: `projector.project_clip`."""
        projected: Tensor = self.projector.project_clip(t_clip_BNC)
        return projected

    def dropped(self) -> frozenset[str]:
        """Return the slots that sit this training step out, the same on all ranks."""
        return frozenset()

    def losses(self, fused: Fused, data_samples: list[Sample]) -> dict[str, Tensor]:
        """Return L_lm and what `fuse` has brought; mmengine sums what says "loss"."""
        vision = self.images_of(fused.t_fuse, data_samples)
        return {"loss_lm": self.language.loss(vision, data_samples), **fused.losses}

    @property
    def leaves_unused(self) -> bool:
        """Whether a step may leave trained parameters out of its graph."""
        return not self.hub.attached and bool(self.slots)

    # --- one batch ------------------------------------------------------------------------------

    def fuse(
        self,
        images: Tensor,
        image_ids: Sequence[str] | None = None,
        views: Views | None = None,
    ) -> Fused:
        """Follow a batch of views [V, 3, H, W] (uint8, or in [0, 1]) to t_fuse [V, N, D].

        Args:
            images: the views that all networks see; none in a batch of text alone, which no expert
                runs on.
            image_ids: one id per view, by which frozen tokens are cached.
            views: of conversations, where the views come from; None is a whole image each.
        """
        images_VCHW = to_unit_range(images)
        t_clip_VNC = self.encode(images_VCHW, image_ids)
        absent = frozenset(self.hub.detached) | self.dropped()
        return self.fuse_tokens(t_clip_VNC, self._tokens_but(absent, images_VCHW, image_ids))

    def _tokens_but(
        self, absent: Collection[str], images_VCHW: Tensor, image_ids: Sequence[str] | None
    ) -> dict[str, Tensor]:
        """Return by slot the tokens [V, M_k, D_k] on each expert's own grid, of all but some."""
        with self.hub.one_pass():
            return {
                slot: self.frozen_tokens(slot, images_VCHW, image_ids)
                for slot in self.slots
                if slot not in absent
            }

    def images_of(self, tokens_VND: Tensor, data_samples: Sequence[Sample]) -> VisionTokens:
        """Return what the language model reads: a batch's views put together to its images."""
        newline_D = getattr(self.language, "newline_D", None)
        return tokens_of_images(tokens_VND, data_samples, self.encoder.grid, newline_D)

    def encode(self, images_VCHW: Tensor, image_ids: Sequence[str] | None = None) -> Tensor:
        """Return the encoder's tokens [V, N, C] of images in [0, 1]; cached where it is frozen."""
        if any(parameter.requires_grad for parameter in self.encoder.parameters()):
            return encoded(self.encoder, images_VCHW)
        shape = self.encoder.grid, self.encoder.width
        return self._frozen("clip", self.encoder, shape, images_VCHW, image_ids)

    def frozen_tokens(
        self, slot: str, images_VCHW: Tensor, image_ids: Sequence[str] | None = None
    ) -> Tensor:
        """Return an expert's tokens [V, M_k, D_k] of images in [0, 1], normalised.

        A cache has them as the expert gave them, for the models that share it may normalise them
        by other statistics.
        """
        return self.hub.normalise(slot, self.raw_tokens(slot, images_VCHW, image_ids))

    def raw_tokens(
        self, slot: str, images_VCHW: Tensor, image_ids: Sequence[str] | None = None
    ) -> Tensor:
        """Return an expert's tokens [V, M_k, D_k] as it gives them, from the cache if known."""
        shape = self.hub.grids[slot], self.hub.widths[slot]
        return self._frozen(slot, partial(self.hub.run, slot), shape, images_VCHW, image_ids)

    def expert_tokens(
        self, slots: Collection[str], images: Tensor, data_samples: list[Sample] | None
    ) -> dict[str, Tensor]:
        """Return the experts' own tokens of a batch by slot, [V, M_k, D_k]."""
        images_VCHW, ids = to_unit_range(images), view_ids(data_samples)
        with self.hub.one_pass():
            return {slot: self.raw_tokens(slot, images_VCHW, ids) for slot in slots}

    @torch.no_grad()
    def _frozen(
        self,
        source: str,
        network: Callable[[Tensor], Tensor],
        shape: tuple[Size, int],
        images_VCHW: Tensor,
        image_ids: Sequence[str] | None,
    ) -> Tensor:
        """Run a frozen network, or take its tokens from the cache; on no image it does not run."""
        if not len(images_VCHW):
            (rows, columns), width = shape
            return images_VCHW.new_empty(0, rows * columns, width)
        if self.cache is None:
            return network(images_VCHW)
        known = self.sources[source], self.encoder.grid
        return self.cache.get_or_compute(*known, image_ids, images_VCHW, network)

    def forward(
        self,
        images: Tensor,
        data_samples: list[Sample] | None = None,
        mode: Literal["loss", "predict", "tensor"] = "tensor",
        content: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> dict[str, Tensor] | list[Sample] | Tensor:
        """Run one batch.

        Args:
            images: [V, 3, H, W], uint8 or floating in [0, 1].
            data_samples: dicts with image_id, task, prompt, target, candidates, ...
            mode: "loss" gives a dict of losses; "predict" the samples with `prediction`;
                "tensor" t_fuse [V, N, D].
            content: [V, 4], see `Views`; None where each sample has one whole view.
            owner: [V], see `Views`.
        """
        views = Views.of(content, owner, data_samples)
        fused = self.fuse(images, view_ids(data_samples), views)
        if mode == "loss":
            return self.losses(fused, data_samples or [])
        if mode == "predict":
            return self.answer(fused.t_fuse, data_samples or [])
        return fused.t_fuse

    def answer(self, tokens_VND: Tensor, data_samples: list[Sample]) -> list[Sample]:
        """Return the samples with `prediction`, each answered as its task is."""
        vision = self.images_of(tokens_VND, data_samples)
        return answer(self.language, vision, data_samples, self.generation)

    def train(self, mode: bool = True) -> "VisionLanguageModel":
        """Set the trained parts' mode; the encoder and the experts are always in eval."""
        super().train(mode)
        self.encoder.eval()
        return self

    def init_weights(self) -> None:
        """Do nothing: mmengine's walk re-initialises pretrained parts that have such a method."""

    # --- what the engine asks -------------------------------------------------------------------

    @property
    def needs_pixels(self) -> bool:
        """Whether a training step looks at an image whose frozen tokens are all known."""
        trains = any(parameter.requires_grad for parameter in self.encoder.parameters())
        return trains or type(self).fuse is not VisionLanguageModel.fuse

    @classmethod
    def experts_of(cls, settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return the experts that a model of these settings runs, by slot."""
        detached = settings.get("detached") or ()
        experts = settings.get("experts") or {}
        return {slot: cfg for slot, cfg in experts.items() if slot not in detached}

    @classmethod
    def with_slots(cls, settings: Mapping[str, Any], slots: Sequence[str]) -> dict[str, Any]:
        """Return the settings of the same model with no other experts than these slots."""
        experts = {slot: settings["experts"][slot] for slot in slots}
        return {**settings, "experts": experts, "detached": ()}

    def check_view(self, kind: str) -> None:
        """Refuse data whose images are shown in a way that the method cannot train on.

        Args:
            kind: of the view, see `tove.data.views`.

        Raises:
            ConfigError: with what to change.
        """

    def running(self) -> tuple[str, ...]:
        """Return the slots whose experts run when the model answers."""
        return () if self.teachers_only else self.hub.attached

    def plain_encoder(self) -> nn.Module:
        """Return the encoder that a merge starts its student from."""
        encoder: nn.Module = self.encoder
        return encoder

    def deployed_encoder(self) -> nn.Module:
        """Return an encoder that takes the weights of `deployed`, and writes them."""
        return self.plain_encoder()

    def part_of(self, name: str) -> str:
        """Return the part whose costs a module's or parameter's are, by its name in the model."""
        slot, head = slot_of(name, self.slot_parts), name.partition(".")[0]
        if slot is None or (head != "hub" and head not in self.slot_parts):
            return head
        return f"experts.{slot}" if head == "hub" else f"{head}.{slot}"

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Return name, distribution, version and digest of each expert that runs, by slot."""
        provenance = self.hub.provenance()
        return {slot: dict(provenance[slot]) for slot in self.hub.attached}

    @torch.no_grad()
    def cost_parts(self, image_BCHW: Tensor) -> dict[str, CostPart]:
        """Return the encoder, each expert that runs, the fusion and the language model."""
        device = image_BCHW.device
        experts = {slot: self.hub.network(slot, device) for slot in self.running()}
        t_clip_BNC = self.encoder(image_BCHW)
        # As the fusion reads them: a cache may keep them on another grid than the expert's.
        tokens = {
            slot: t_clip_BNC.new_zeros(
                len(image_BCHW), math.prod(self.hub.grids[slot]), self.hub.widths[slot]
            )
            for slot in experts
        }
        apart = self.beside_fusion
        fusion = [module for name, module in self.named_children() if name not in apart]
        return {
            "encoder": CostPart([self.encoder], partial(self.encoder, image_BCHW)),
            **{
                f"experts.{slot}": CostPart([expert], partial(expert, image_BCHW))
                for slot, expert in experts.items()
            },
            "fusion": CostPart(fusion, partial(self.fuse_tokens, t_clip_BNC, tokens)),
            "language": CostPart([self.language]),
        }

    def load_trainable(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load trained parameters, strictly but for experts that come or go by slot name.

        Raises:
            CheckpointError: keys are missing or unexpected, or shapes differ.
        """
        load_trainable(self, state_dict)

    def deployed(self) -> dict[str, Tensor] | None:
        """Return the state of the plain CLIP model that this one leaves behind; None for none."""
        return None
