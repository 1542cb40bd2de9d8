"""Where a training stage starts: from an earlier model, or within an interrupted training.

An earlier model may have had other experts, and have trained less or more. What becomes of each
slot is told in one line, see `tove.engine.expert_swap`.
"""

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process

from tove.engine.checkpoint import read_checkpoint
from tove.engine.expert_swap import carried_state, carry_over
from tove.engine.fingerprints import check_frozen
from tove.engine.stages.context import StageContext
from tove.engine.stages.models import load_checkpoint_into
from tove.engine.stages.state import EARLIER
from tove.protocols import Method

__all__ = ["images_of", "kept_slots", "start_training", "steps_of"]

Meta = dict[str, Any]


def start_training(
    context: StageContext, stage: str, model: Method, source: str | None = None
) -> Meta:
    """Give a freshly built model what was learned before.

    That is, the first there is of: the user's checkpoint, what the stage itself had learned when
    the experts changed, the model of its source.

    Args:
        context: the run.
        stage: the stage's name.
        model: freshly built.
        source: the stage whose model it goes on from; None starts from scratch.

    Returns:
        The meta, with `path` and the `carry` of experts, of the model that the stage started from;
        empty if from scratch.

    Raises:
        CheckpointError: a checkpoint is damaged, or what belongs to no expert does not fit.
    """
    own = context.folder(stage) / EARLIER
    path: Path | None = context.checkpoint
    if path is None and context.resume and own.exists():
        path = own
    if path is None and source is not None:
        path = context.model_path(source)
    if path is None:
        return {}
    earlier = read_checkpoint(path)
    check_frozen(earlier["meta"].get("frozen"), model.frozen, str(path))
    carry = carry_over(earlier, model.provenance())
    state = carried_state(earlier["state_dict"], carry, model.slot_parts)
    load_checkpoint_into(model, {**earlier, "state_dict": state}, path)
    if is_main_process():
        print(f"{stage}: starts from {path}; {carry}", flush=True)
    return {**earlier["meta"], "path": path, "carry": carry}


def kept_slots(earlier: Meta) -> tuple[str, ...]:
    """Return the slots that go on with what they learned in an earlier model."""
    kept: tuple[str, ...] = earlier["carry"].kept if earlier else ()
    return kept


def steps_of(earlier: Meta) -> int:
    """Return the steps that an earlier model took; an interrupted training's are its `iter`."""
    steps: int = earlier.get("steps") or earlier.get("iter") or 0
    return steps


def images_of(earlier: Meta) -> set[str]:
    """Return the ids of the images that an earlier model was trained on, as far as is known."""
    if not earlier:
        return set()
    listed = earlier["path"].parent / "images_seen.txt"
    return set(listed.read_text("utf-8").split("\n")) - {""} if listed.exists() else set()
