"""The hub of frozen vision experts: every expert sees the same view and gives its own tokens.

    t_k = norm_k(expert_k(normalise_k(resize_k(image))))  no_grad, eval, on the expert's device

An expert is a plugin that an `ExpertSpec` describes; the hub plans from specs alone and never asks
a loaded model. A slot that is detached does not run; one that is detached from the start is not
even looked up, so its package need not be installed.

Shapes: B batch, C = 3 channels, H x W the shared view, M = h * w tokens on an expert's own grid,
D its width.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from tove.backbones.experts.provenance import expert_provenance
from tove.backbones.experts.registration import expert_options, expert_spec, is_stored
from tove.backbones.preprocess import Preprocess, Resize, keep_dtype
from tove.backbones.shapes import building_shapes, untrained_expert
from tove.errors import ConfigError
from tove.modules.collectives import num_ranks, sum_over_ranks
from tove.modules.token_norm import FittedNorm, TokenNorm, make_token_norm
from tove.registry import EXPERTS, SCOPE
from tove_plugins import ExpertSpec, kept_global_state

__all__ = ["ExpertHub", "FrozenExpert", "check_slots", "expert_specs"]


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


class FrozenExpert(nn.Module):
    """One expert with its preprocessing and its place: frozen, in eval, without gradients.

    Args:
        slot: its name in the config, for messages.
        spec: what the plugin says about it.
        expert: the built network; None for one that `place` brings when it first runs.
        device: where it stays whatever the model does; None follows the model.
        dtype: of its weights, which stays as well, under autocast too; None is float32, or what
            autocast makes of it.
        token_norm: what is done to the tokens' scale.
        resize: numbers that the view is resized in, see `tove.backbones.preprocess.Resize`.

    Attributes:
        norm: the module that does it, on the device of what reads the tokens.
    """

    def __init__(
        self,
        slot: str,
        spec: ExpertSpec,
        expert: nn.Module | None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        token_norm: TokenNorm = "none",
        resize: Resize = "float32",
    ) -> None:
        super().__init__()
        self.slot, self.spec, self.checked = slot, spec, False
        self.device = None if device is None else torch.device(device)
        self.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        self.expert: nn.Module | None = None
        self._first_weight: tuple[nn.Parameter] | None = None
        image = spec.image
        self.preprocess = Preprocess(
            image.size, image.mean, image.std, image.value_range, image.interpolation, resize
        ).to(self.device)
        self.norm = make_token_norm(token_norm, spec.tokens.width)
        if expert is not None:
            self.place(expert)
        self.eval()

    def place(self, expert: nn.Module, device: torch.device | None = None) -> None:
        """Take the built network in, frozen and in eval, where the config or `device` says."""
        expert = expert.to(device=self.device or device, dtype=self.dtype)
        self.expert = expert.requires_grad_(False).eval()
        self._first_weight = None

    def train(self, mode: bool = True) -> "FrozenExpert":
        """Stay in eval: mmengine's loop sets the whole model to training every epoch."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenExpert":  # noqa: ANN401
        """Follow the model's `.to(...)` except in what the config has settled."""
        self._first_weight = None
        if self.device is not None:
            self.norm._apply(fn, recurse)
            return self
        return super()._apply(fn if self.dtype is None else keep_dtype(fn), recurse)

    @property
    def _network(self) -> nn.Module:
        return cast(nn.Module, self.expert)

    def _input_dtype(self) -> torch.dtype | None:
        """The dtype that the input must have: that of the parameters, or else of the buffers."""
        if self._first_weight is None:
            weights = chain(self._network.parameters(), self._network.buffers())
            found = next((w for w in weights if w.is_floating_point()), None)
            if not isinstance(found, nn.Parameter):
                return self.dtype if found is None else found.dtype
            self._first_weight = (found,)  # in a tuple, lest it becomes a parameter here as well
        return self._first_weight[0].dtype

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give normalised tokens [B, M, D], on the images' device, of images in [0, 1]."""
        with kept_global_state():
            tokens_BMD: Tensor = self.norm(self.raw(images_BCHW))
        return tokens_BMD

    @torch.no_grad()
    def raw(self, images_BCHW: Tensor) -> Tensor:
        """Give tokens [B, M, D] as the expert itself does, of images in [0, 1].

        What its code does to the process is for the caller to put back.
        """
        home = images_BCHW.device
        pixels_BCHW = self.preprocess(_moved(images_BCHW, self.device or home))
        settled = nullcontext() if self.dtype is None else _no_autocast(pixels_BCHW.device)
        with settled:
            tokens_BMD = self._network(pixels_BCHW.to(self._input_dtype()))
        if not self.checked:
            self._check(tokens_BMD, len(images_BCHW))
        return _moved(tokens_BMD, home)

    def _check(self, tokens: Any, num_images: int) -> None:  # noqa: ANN401
        """Hold the first output against the spec; a wrong layout would train on without a word."""
        expected = (num_images, self.spec.tokens.num_tokens, self.spec.tokens.width)
        if not isinstance(tokens, Tensor):
            found = f"a {type(tokens).__name__}"
        elif tuple(tokens.shape) != expected:
            found = f"a tensor of shape {list(tokens.shape)}"
        elif not tokens.is_floating_point():
            found = f"tokens of {tokens.dtype}"
        else:
            self.checked = True
            return
        raise ConfigError(
            f"Expert '{self.spec.name}' in slot '{self.slot}' gave {found}, but its spec promises "
            f"floating tokens of shape {list(expected)} (batch, {self.spec.tokens.grid[0]} x "
            f"{self.spec.tokens.grid[1]} grid, width); its factory {self.spec.factory} or its spec "
            "is wrong. Report it to its author, or detach the slot."
        )


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device.type):  # the meta device has none
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; a copy to the CPU is waited for, or it would be read before it is there."""
    return x.to(device, non_blocking=device.type != "cpu")


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
