"""Experts that come, go or change: what of a training is kept, by slot name."""

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from tove.engine.expert_swap import CarryOver, carried_state, carry_over
from tove.engine.optimizer import Schedule, optim_wrapper_cfg
from tove.engine.trainable_state import slot_of
from tove.errors import CheckpointError
from tove.methods.tove.model import ToVE

PARTS = ToVE.slot_parts
GATE = {"noise": 1.0, "sees": "experts"}  # has all the layers that a slot may have


@pytest.fixture
def trained(make_model, experts, batch):
    """A model with the slots coarse, fine and other, trained for three steps, as a checkpoint."""
    experts["other"] = {"type": experts["fine"]["type"]}
    model = make_model(gate=GATE)
    wrapper = build_optim_wrapper(model, optim_wrapper_cfg(Schedule(steps=9, lr=0.01)))
    for _ in range(3):
        wrapper.update_params(sum(model(**batch, mode="loss").values()))
    provenance = model.provenance()
    meta = {"experts": provenance, "attached": list(provenance), "iter": 3}
    return {"state_dict": model.state_dict(), "meta": meta}


def go_on(trained: dict, make_model: Any, experts: dict) -> tuple[ToVE, CarryOver]:
    """Give a model with other experts what the checkpoint has for it; say what became of slots."""
    model = make_model(seed=1, gate=GATE, experts=experts)
    carry = carry_over(trained, model.provenance())
    model.load_trainable(carried_state(trained["state_dict"], carry, PARTS))
    return model, carry


def test_layers_go_by_name_whatever_the_order(trained, make_model, experts):
    reordered = {slot: experts[slot] for slot in ("other", "coarse")}
    model, carry = go_on(trained, make_model, reordered)
    assert str(carry) == "kept: other, coarse; dropped: fine"
    before, after = trained["state_dict"], model.state_dict()
    assert after.keys() == {name for name in before if slot_of(name, PARTS) != "fine"}
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name


def test_an_expert_that_comes_has_the_fresh_layers_of_its_model(trained, make_model, experts):
    more = {"new": experts["coarse"], **experts}
    fresh = make_model(seed=1, gate=GATE, experts=more).state_dict()
    model, carry = go_on(trained, make_model, more)
    assert str(carry) == "kept: coarse, fine, other; new: new (fresh layers)"
    for name, tensor in model.state_dict().items():
        expected = fresh[name] if slot_of(name, PARTS) == "new" else trained["state_dict"][name]
        assert torch.equal(tensor, expected), name


def test_another_expert_in_a_slot_does_not_get_its_layers(trained, make_model, experts):
    swapped = {**experts, "other": experts["coarse"]}
    model, carry = go_on(trained, make_model, swapped)
    told = "kept: coarse, fine; replaced: other (fresh layers: it was 'fine' and is 'fake')"
    assert str(carry) == told
    state = model.state_dict()
    layer = "projector.first.other.weight"
    assert state[layer].shape != trained["state_dict"][layer].shape
    gate = "gate.heads.other.weight"
    assert not torch.equal(state[gate], trained["state_dict"][gate])


def test_the_same_expert_with_other_options_is_another(trained, make_model, experts):
    changed = {**experts, "coarse": {**experts["coarse"], "scale": 2.0}}
    _, carry = go_on(trained, make_model, changed)
    assert carry.kept == ("fine", "other")
    assert "the options of 'fake' were {} and are {'scale': 2.0}" in str(carry)


def test_what_belongs_to_no_expert_must_fit(trained, make_model, experts):
    model = make_model(gate=GATE, projector={"hidden": 8})
    carry = carry_over(trained, model.provenance())
    with pytest.raises(CheckpointError, match="another shape"):
        model.load_trainable(carried_state(trained["state_dict"], carry, PARTS))


def test_a_slim_checkpoint_has_only_what_is_attached(trained, experts):
    trained["meta"]["attached"] = ["coarse"]
    carry = carry_over(trained, trained["meta"]["experts"])
    assert (carry.kept, carry.new) == (("coarse",), ("fine", "other"))
    kept = carried_state(trained["state_dict"], carry, PARTS)
    assert {slot_of(name, PARTS) for name in kept} == {None, "coarse"}


def test_a_slot_is_found_in_a_model_within_another_and_is_never_clip_s():
    assert slot_of("teacher.gate.heads.depth.weight", PARTS) == "depth"
    assert slot_of("projector.first.depth.stages.0.weight", PARTS) == "depth"
    assert slot_of("kinds.depth", ("kinds",)) == "depth"
    # An expert may have parts of these names within it.
    assert slot_of("projector.first.depth.projector.first.dino.weight", PARTS) == "depth"
    assert slot_of("projector.first.clip.weight", PARTS) is None
    assert slot_of("transfer.scale", PARTS) is None
    assert slot_of("agate.heads.depth.weight", PARTS) is None


@pytest.mark.parametrize("what", ["new", "replaced", "dropped"])
def test_any_slot_that_is_not_kept_is_a_change(what: str):
    same: dict[str, Any] = dict(kept=("fine",), new=(), replaced={}, dropped=())
    assert not CarryOver(**same).changed
    assert CarryOver(**same | {what: {"coarse": "why"}}).changed
