"""Muon for the weights of linear layers, AdamW for all else, as one optimiser.

    M <- mu M + G,   O = the nearest semi-orthogonal matrix to G + mu M,   by Newton-Schulz steps
    W <- (1 - lr wd) W - lr . 0.2 sqrt(max(rows, columns)) O

A weight's update has the size of AdamW's at the same rate, and all its singular values move alike:
a student learns what a few directions of its gradient say loudly, and the rest as well (K. Jordan
et al., 2024; the scale of the step: J. Liu et al., arXiv 2502.16982). Both halves are torch's own.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from tove.registry import OPTIMIZERS

__all__ = ["MuonAdamW", "split_for_muon"]

Group = dict[str, Any]


@OPTIMIZERS.register_module()
class MuonAdamW(Optimizer):
    """Step by Muon where a group says `muon=True`, else by AdamW.

    Args:
        params: groups; those with `muon=True` hold matrices alone, see `split_for_muon`.
        lr: of both.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of both, decoupled.
        momentum: mu of Muon.
        fused: of AdamW, see torch.
    """

    def __init__(
        self,
        params: Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        fused: bool | None = None,
    ) -> None:
        shared: Any = {"lr": lr, "weight_decay": weight_decay}
        super().__init__([{"muon": False, **group} for group in params], shared)
        # Each half fills in its settings in the very groups that a schedule then changes.
        self._halves: dict[bool, Optimizer] = {}
        if groups := self._of(muon=True):
            scale: Any = "match_rms_adamw"
            self._halves[True] = Muon(groups, momentum=momentum, adjust_lr_fn=scale, **shared)
        if groups := self._of(muon=False):
            self._halves[False] = AdamW(groups, betas=betas, eps=eps, fused=fused, **shared)

    def _of(self, muon: bool) -> list[Group]:
        return [group for group in self.param_groups if group["muon"] == muon]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step; see torch."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for muon, half in self._halves.items():  # which a loaded state has put new ones before
            half.param_groups, half.state = self._of(muon), self.state
            half.step()
        return loss


def split_for_muon(groups: Iterable[Group], model: nn.Module) -> list[Group]:
    """Put the weights of linear layers into groups of their own, with `muon=True`.

    Left to AdamW are embeddings, convolutions, vectors, and the layer that gives a language model's
    words.

    Args:
        groups: of an optimiser, whose settings both parts keep.
        model: whose parameters they hold.
    """
    heads = {id(head.weight) for head in map(_word_layer, model.modules()) if head is not None}
    linear = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.weight.ndim == 2
    } - heads
    split: list[Group] = []
    for group in groups:
        for muon in (True, False):
            chosen = [p for p in group["params"] if (id(p) in linear) == muon]
            if chosen:
                split.append({**group, "params": chosen, "muon": muon})
    return split


def _word_layer(module: nn.Module) -> Any:  # noqa: ANN401
    get: Callable[[], Tensor] | None = getattr(module, "get_output_embeddings", None)
    return get() if callable(get) else None
