"""Where a training stage starts: from an earlier model, or within an interrupted training.

Either may have had other experts. What becomes of each slot is told in one line, see
`tove.engine.expert_swap`.
"""

from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process

from tove.engine.checkpoint import (
    check_way_of_training,
    read_checkpoint,
    resumable_checkpoint,
    write_checkpoint,
)
from tove.engine.expert_swap import adapted_checkpoint, carried_state, carry_over, is_of
from tove.engine.fingerprints import check_frozen
from tove.engine.stages.context import StageContext, load_checkpoint_into, provenance_of
from tove.engine.stages.state import EARLIER
from tove.protocols import Model

__all__ = ["images_of", "start_training"]

Meta = dict[str, Any]


def start_training(context: StageContext, stage: str, model: Model) -> Meta:
    """Give a freshly built model what was learned before, by the user's choice or in its folder.

    An interrupted training is left to mmengine, which loads it; here its checkpoint is only fitted
    to the experts of now. The file is rewritten whole, so that resuming again finds nothing to do.

    Args:
        context: the run.
        stage: the stage's name.
        model: freshly built.

    Returns:
        The meta, with `path`, of the model that the stage started from; empty if from scratch.

    Raises:
        CheckpointError: a checkpoint is damaged, or what belongs to no expert does not fit.
    """
    own = context.folder(stage) / EARLIER
    path = context.checkpoint or (own if context.resume and own.exists() else None)
    earlier = read_checkpoint(path) if path else None
    interrupted = _interrupted(context, stage)
    if earlier:
        check_frozen(earlier["meta"].get("frozen"), model.frozen, str(path))
    if interrupted:
        _adapt(interrupted, stage, model, context.amp)
    elif earlier and path:
        carry = carry_over(earlier, provenance_of(model))
        state = carried_state(earlier["state_dict"], carry)
        load_checkpoint_into(model, {**earlier, "state_dict": state}, path)
        _tell(f"{stage}: starts from {path}; {carry}")
    return {**earlier["meta"], "path": path} if earlier else {}


def images_of(earlier: Meta) -> set[str]:
    """Give the ids of the images that an earlier model was trained on, as far as they are known."""
    if not earlier:
        return set()
    listed = earlier["path"].parent / "images_seen.txt"
    return set(listed.read_text().split("\n")) - {""} if listed.exists() else set()


def _interrupted(context: StageContext, stage: str) -> Path | None:
    return resumable_checkpoint(context.folder(stage)) if context.resume else None


def _adapt(path: Path, stage: str, model: Model, amp: bool) -> None:
    checkpoint, experts = read_checkpoint(path), provenance_of(model)
    # Before the file is rewritten: what it had of dropped experts is lost then.
    check_way_of_training(checkpoint["meta"], amp, str(path))
    check_frozen(checkpoint["meta"].get("frozen"), model.frozen, str(path))
    carry = carry_over(checkpoint, experts)
    if not carry.changed and is_of(checkpoint, model):
        return
    adapted = adapted_checkpoint(checkpoint, model, experts, carry)
    barrier()  # every rank has read it
    if is_main_process():
        write_checkpoint(path, adapted)
    barrier()
    named = "param_names" in checkpoint["optimizer"]["param_groups"][0]
    goes_on, fresh = "goes on with what is kept", "starts fresh: the checkpoint names no parameters"
    steps = f"goes on after step {checkpoint['meta']['iter']}"
    _tell(f"{stage}: {steps}; {carry}; the optimiser's state {goes_on if named else fresh}")


def _tell(sentence: str) -> None:
    if is_main_process():
        print(sentence, flush=True)
