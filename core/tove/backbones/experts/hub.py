"""The hub of frozen vision experts: every expert sees the same view and gives its own tokens.

An expert is a plugin that an `ExpertSpec` describes; the hub plans from specs alone and never asks
a loaded model. A slot that is detached does not run; one that is detached from the start is not
even looked up, so its package need not be installed.

Shapes: B batch, C = 3 channels, H x W the shared view, M tokens on an expert's own grid, D its
width.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tove.backbones.experts.frozen_expert import FrozenExpert
from tove.backbones.experts.provenance import expert_provenance
from tove.backbones.experts.registration import expert_options, expert_spec, is_stored
from tove.backbones.shapes import building_shapes, untrained_expert
from tove.errors import ConfigError
from tove.modules.collectives import num_ranks, sum_over_ranks
from tove.modules.token_norm import FittedNorm, TokenNorm
from tove.registry import EXPERTS, SCOPE
from tove_plugins import ExpertSpec, kept_global_state

__all__ = ["ExpertHub", "check_slots", "expert_specs"]


def check_slots(slots: Collection[str]) -> None:
    """Refuse slot names that cannot name a module.

    Raises:
        ConfigError: a name that is taken, or that has other signs than letters, digits, "_".
    """
    for slot in slots:
        if slot == "clip" or not slot.isidentifier() or hasattr(nn.ModuleDict, slot):
            raise ConfigError(
                f"model.experts has the slot {slot!r}, which cannot be used as a name; choose "
                "letters, digits and underscores, and neither 'clip' nor a method of a module."
            )


def expert_specs(
    experts: Mapping[str, Mapping[str, Any]], detached: Collection[str] = ()
) -> dict[str, ExpertSpec]:
    """Give the spec of every slot that is not detached; nothing is built."""
    return {slot: expert_spec(cfg).spec for slot, cfg in experts.items() if slot not in detached}


class ExpertHub(nn.Module):
    """Experts by slot.

    Args:
        experts: by slot, dict(type=NAME, device=None, dtype=None, token_norm=None,
            resize="float32", **options of the factory).
        detached: slots that are not looked up, built or run.
        token_norm: of the slots whose own is None.
        unbuilt: slots whose experts are built when they first run: their tokens are kept elsewhere.

    Attributes:
        slots: all configured slots, in the config's order.
        widths: token width by slot, for those that are not detached.
        grids: token grid (h, w) by slot, for those that are not detached.
        forward_counts: how often each expert ran, by slot.
    """

    def __init__(
        self,
        experts: Mapping[str, Mapping[str, Any]],
        detached: Collection[str] = (),
        token_norm: TokenNorm = "none",
        unbuilt: Collection[str] = (),
    ) -> None:
        super().__init__()
        check_slots(experts)
        self._pass: ExitStack | None = None
        self._kept = False
        self._norms = {s: cfg.get("token_norm") or token_norm for s, cfg in experts.items()}
        self.slots = tuple(experts)
        self.forward_counts: Counter[str] = Counter()
        self._cfgs = {slot: dict(cfg) for slot, cfg in experts.items()}
        self._provenance: dict[str, dict[str, Any]] = {}
        self._check_known(detached)
        self._detached = set(detached)
        self.specs = expert_specs(experts, detached)
        self.widths = {slot: spec.tokens.width for slot, spec in self.specs.items()}
        self.grids = {slot: spec.tokens.grid for slot, spec in self.specs.items()}
        self.experts = nn.ModuleDict(
            {
                slot: FrozenExpert(
                    slot,
                    spec,
                    None if slot in unbuilt else self._build(slot),
                    self._cfgs[slot].get("device"),
                    self._cfgs[slot].get("dtype"),
                    self._norms[slot],
                    self._cfgs[slot].get("resize", "float32"),
                )
                for slot, spec in self.specs.items()
            }
        )

    def _build(self, slot: str) -> nn.Module:
        cfg = self._cfgs[slot]
        if building_shapes():
            return untrained_expert(cfg)
        options = expert_options(cfg)
        expert: nn.Module = EXPERTS.build({"type": cfg["type"], **options, "_scope_": SCOPE})
        return expert

    def _expert(self, slot: str) -> FrozenExpert:
        return cast(FrozenExpert, self.experts[slot])

    def _check_known(self, slots: Collection[str]) -> None:
        unknown = [slot for slot in slots if slot not in self.slots]
        if unknown:
            raise ConfigError(
                f"There is no expert slot '{unknown[0]}' to attach or detach; model.experts has "
                f"{', '.join(self.slots) or 'none'}."
            )

    @property
    def attached(self) -> tuple[str, ...]:
        """The slots that run, in the config's order."""
        return tuple(slot for slot in self.slots if slot not in self._detached)

    @property
    def detached(self) -> tuple[str, ...]:
        """The slots that do not run, in the config's order."""
        return tuple(slot for slot in self.slots if slot in self._detached)

    def detach(self, slot: str) -> None:
        """Stop running a slot; it stays built, so that `attach` is free."""
        self._check_known([slot])
        self._detached.add(slot)

    def attach(self, slot: str) -> None:
        """Run a slot again.

        Raises:
            ConfigError: it was detached when the hub was built, so there is no expert to run.
        """
        self._check_known([slot])
        if slot not in self.specs:
            raise ConfigError(
                f"Expert slot '{slot}' was detached when the model was built, so it has neither an "
                "expert nor trained layers; take it out of model.detached and build again."
            )
        self._detached.discard(slot)

    def network(self, slot: str, device: torch.device | None = None) -> FrozenExpert:
        """Return a slot's expert, which is built now if it was not."""
        expert = self._expert(slot)
        if expert.expert is None:
            with torch.random.fork_rng(devices=[]):
                expert.place(self._build(slot), device)
        return expert

    def absent(self) -> list[str]:
        """Return the attached slots whose tokens are known and whose packages are not here."""
        return [
            slot
            for slot in self.attached
            if self._expert(slot).expert is None and is_stored(self._cfgs[slot])
        ]

    def run(self, slot: str, images_BCHW: Tensor) -> Tensor:
        """Run one expert: images in [0, 1] to its own tokens [B, M, D], as a cache keeps them."""
        self.forward_counts[slot] += 1
        expert = self.network(slot, images_BCHW.device)
        if self._pass is None:
            with kept_global_state():
                return expert.raw(images_BCHW)
        if not self._kept:
            self._pass.enter_context(kept_global_state())
            self._kept = True
        return expert.raw(images_BCHW)

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Put back what experts' code does to the process once, behind all that run meanwhile.

        The generators' states are read from the first expert on: behind each it would cost small
        experts a fifth of their time.
        """
        # An expert may run deeper down, where gradients are off; here they stay as they are.
        with torch.set_grad_enabled(torch.is_grad_enabled()), ExitStack() as stack:
            self._pass, self._kept = stack, False
            try:
                yield
            finally:
                self._pass = None

    def normalise(self, slot: str, tokens_BMD: Tensor) -> Tensor:
        """Return an expert's own tokens [B, M, D] at the scale at which methods read them."""
        normalised_BMD: Tensor = self._expert(slot).norm(tokens_BMD)
        return normalised_BMD

    def forward(self, images_BCHW: Tensor, skip: Collection[str] = ()) -> dict[str, Tensor]:
        """Run the attached experts but those in `skip`; normalised tokens by slot."""
        slots = [slot for slot in self.attached if slot not in skip]
        with self.one_pass():
            return {slot: self.normalise(slot, self.run(slot, images_BCHW)) for slot in slots}

    def fitted_norms(self) -> dict[str, FittedNorm]:
        """Return the normalisations that need the statistics of a sample, by attached slot."""
        norms = {slot: self._expert(slot).norm for slot in self.attached}
        return {slot: norm for slot, norm in norms.items() if isinstance(norm, FittedNorm)}

    @torch.no_grad()
    def fit_norms(self, slots: Collection[str], batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Take the statistics of these slots' tokens; all ranks get the same.

        Args:
            slots: of `fitted_norms`.
            batches: the experts' own tokens [B, M, D] by slot, this rank's part of the sample;
                maybe none.

        Raises:
            ConfigError: no rank has an image.
        """
        fitted = self.fitted_norms()
        norms = {slot: fitted[slot] for slot in slots}
        sums = {
            slot: norm.moments(next(norm.buffers()).new_zeros(0, self.widths[slot]))
            for slot, norm in norms.items()
        }
        for tokens in batches:
            for slot, norm in norms.items():
                sums[slot] += norm.moments(tokens[slot])
        for slot, norm in norms.items():
            norm.fit(sum_over_ranks(sums[slot]) if num_ranks() > 1 else sums[slot])

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Say, per slot that is built, which expert, from where, how its tokens are normalised."""
        for slot in self.specs:  # once: every checkpoint has it, and digests read whole files
            if slot not in self._provenance:
                told = expert_provenance(self._cfgs[slot])
                self._provenance[slot] = {**told, "token_norm": self._norms[slot]}
        return {slot: dict(self._provenance[slot]) for slot in self.specs}
