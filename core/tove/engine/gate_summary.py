"""What a gate does on the data that a model is evaluated on, noted as it decides.

    share_k = mean over tokens of g_k
    entropy = mean over tokens of -sum_k g_k log g_k / log K        0: one expert, 1: all alike

K counts the experts that run. A token counts once for each item that is asked about its image.

Shapes: B batch, N tokens, K slots.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor

__all__ = ["GateSummary", "noting_gate"]


class GateSummary:
    """Sums over tokens, on the weights' device until they are asked for.

    Args:
        slots: of the weights' columns.
    """

    def __init__(self, slots: Sequence[str]) -> None:
        self.slots = tuple(slots)
        self._sums: list[Tensor] = []  # by batch: of each column, of the entropy, and the tokens

    def add(self, weights_BNK: Tensor) -> None:
        """Count a batch's weights."""
        weights_XK = weights_BNK.detach().flatten(0, -2).float()
        entropy_X = torch.special.entr(weights_XK).sum(-1)
        counted = torch.ones_like(entropy_X)
        self._sums.append(torch.cat([weights_XK, torch.stack([entropy_X, counted], -1)], -1).sum(0))

    def told(self, running: Sequence[str]) -> dict[str, Any]:
        """Return {entropy, share: {slot: ...}} over all processes; {} where nothing was shared.

        Args:
            running: the slots among which the gate chose.
        """
        if not self._sums or len(running) < 2:
            return {}
        sums = torch.stack(self._sums).cpu().double().sum(0)
        all_reduce(sums)
        *mean_K, entropy, _ = (sums / sums[-1]).tolist()
        means = dict(zip(self.slots, mean_K, strict=True))
        share = {slot: round(means[slot], 5) for slot in running}
        return {"entropy": round(entropy / math.log(len(running)), 5), "share": share}


@contextmanager
def noting_gate(model: Any) -> Iterator[GateSummary]:  # noqa: ANN401 - a method's
    """Note what a model's gate decides meanwhile; of a model without one nothing is noted."""
    summary = GateSummary(model.slots if hasattr(model, "gate_weights") else ())
    if not summary.slots:
        yield summary
        return

    def note(_module: Any, _inputs: Any, output: Any) -> None:  # noqa: ANN401 - torch's
        summary.add(output.weights)

    handle = model.gate.register_forward_hook(note)
    try:
        yield summary
    finally:
        handle.remove()
