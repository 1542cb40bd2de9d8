"""What is kept when the experts change between two trainings: a slot's layers go by its name.

A slot's layers (W_k or its stem, its gate head) are kept where the slot holds the expert that it
held before, with the same weights and options. A slot that is new, or that holds another expert
now, starts with fresh layers; those of a slot that is gone are dropped. What belongs to no slot
(P_clip, the shared layer, MLP_t, adapters) is kept.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tove.engine.provenance import expert_difference
from tove.engine.trainable_state import slot_of

__all__ = ["CarryOver", "carried_state", "carry_over"]

Experts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class CarryOver:
    """Which slots keep what they learned.

    Attributes:
        kept: the same expert as before.
        new: not there before.
        replaced: another expert, or the same with other weights or options; how it differs.
        dropped: there before, not any more.
    """

    kept: tuple[str, ...]
    new: tuple[str, ...]
    replaced: Mapping[str, str]
    dropped: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether anything is not kept."""
        return bool(self.new or self.replaced or self.dropped)

    def __str__(self) -> str:
        replaced = [f"{slot} (fresh layers: {why})" for slot, why in self.replaced.items()]
        parts = {
            "kept": ", ".join(self.kept),
            "new": ", ".join(f"{slot} (fresh layers)" for slot in self.new),
            "replaced": ", ".join(replaced),
            "dropped": ", ".join(self.dropped),
        }
        return "; ".join(f"{what}: {slots}" for what, slots in parts.items() if slots) or "kept: -"


def carry_over(checkpoint: Mapping[str, Any], experts: Experts) -> CarryOver:
    """Compare the experts of a checkpoint with those of the model that goes on from it.

    Args:
        checkpoint: with the meta that a stage writes.
        experts: by slot, the provenance of the model's attached experts.
    """
    meta = checkpoint["meta"]
    saved: Experts = meta.get("experts", {})
    before = [slot for slot in meta.get("attached", saved) if slot in saved]
    common = [slot for slot in experts if slot in before]
    differences = {slot: expert_difference(saved[slot], experts[slot]) for slot in common}
    return CarryOver(
        kept=tuple(slot for slot in common if not differences[slot]),
        new=tuple(slot for slot in experts if slot not in before),
        replaced={slot: why for slot, why in differences.items() if why},
        dropped=tuple(slot for slot in before if slot not in experts),
    )


def carried_state(
    state_dict: Mapping[str, Tensor], carry: CarryOver, slot_parts: Iterable[str]
) -> dict[str, Tensor]:
    """Leave out the parameters of slots that are not kept."""
    parts = tuple(slot_parts)
    slots = {name: slot_of(name, parts) for name in state_dict}
    return {n: t for n, t in state_dict.items() if slots[n] is None or slots[n] in carry.kept}
