"""Experts that come, go or change: what of a training is kept, by slot name."""

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from tove.engine.expert_swap import adapted_checkpoint, carried_state, carry_over, is_of
from tove.engine.optimizer import Schedule, optim_wrapper_cfg
from tove.engine.trainable_state import slot_of
from tove.errors import CheckpointError
from tove.methods.tove.model import ToVE


def optimiser(model: ToVE) -> Any:
    return build_optim_wrapper(model, optim_wrapper_cfg(Schedule(steps=9, lr=0.01)))


def step(model: ToVE, wrapper: Any, batch: dict) -> None:
    losses = model(**batch, mode="loss")
    wrapper.update_params(sum(losses.values()))


@pytest.fixture
def trained(make_model, experts, batch):
    """A model with the slots coarse, fine and other, trained for three steps, as a checkpoint."""
    experts["other"] = {"type": experts["fine"]["type"]}
    model = make_model(gate={"noise": 1.0})
    wrapper = optimiser(model)
    for _ in range(3):
        step(model, wrapper, batch)
    provenance = model.hub.provenance()
    meta = {"experts": provenance, "attached": list(provenance), "iter": 3}
    return {"state_dict": model.state_dict(), "optimizer": wrapper.state_dict(), "meta": meta}


def go_on(trained: dict, make_model: Any, experts: dict) -> tuple[ToVE, dict, Any]:
    """Adapt the checkpoint to a model with other experts; give both and what became of slots."""
    model = make_model(seed=1, gate={"noise": 1.0}, experts=experts)
    provenance = model.hub.provenance()
    carry = carry_over(trained, provenance)
    return model, adapted_checkpoint(trained, model, provenance, carry), carry


def test_layers_go_by_name_whatever_the_order(trained, make_model, experts):
    reordered = {slot: experts[slot] for slot in ("other", "coarse")}
    model, adapted, carry = go_on(trained, make_model, reordered)
    assert str(carry) == "kept: other, coarse; dropped: fine"
    before, after = trained["state_dict"], adapted["state_dict"]
    assert after.keys() == model.state_dict().keys()
    assert after.keys() == {name for name in before if slot_of(name) != "fine"}
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    assert (adapted["meta"]["attached"], adapted["meta"]["iter"]) == (["other", "coarse"], 3)


def test_an_expert_that_comes_has_the_fresh_layers_of_its_model(trained, make_model, experts):
    more = {"new": experts["coarse"], **experts}
    fresh = make_model(seed=1, gate={"noise": 1.0}, experts=more).state_dict()
    _, adapted, carry = go_on(trained, make_model, more)
    assert str(carry) == "kept: coarse, fine, other; new: new (fresh layers)"
    for name, tensor in adapted["state_dict"].items():
        expected = fresh[name] if slot_of(name) == "new" else trained["state_dict"][name]
        assert torch.equal(tensor, expected), name


def test_another_expert_in_a_slot_does_not_get_its_layers(trained, make_model, experts):
    swapped = {**experts, "other": experts["coarse"]}
    _, adapted, carry = go_on(trained, make_model, swapped)
    told = "kept: coarse, fine; replaced: other (fresh layers: it was 'fine' and is 'fake')"
    assert str(carry) == told
    layer = "projector.first.other.weight"
    assert adapted["state_dict"][layer].shape != trained["state_dict"][layer].shape
    gate = "gate.heads.other.weight"
    assert not torch.equal(adapted["state_dict"][gate], trained["state_dict"][gate])


def test_the_same_expert_with_other_options_is_another(trained, make_model, experts):
    changed = {**experts, "coarse": {**experts["coarse"], "scale": 2.0}}
    _, _, carry = go_on(trained, make_model, changed)
    assert carry.kept == ("fine", "other")
    assert "the options of 'fake' were {} and are {'scale': 2.0}" in str(carry)


def moments(state: dict) -> dict[str, torch.Tensor]:
    """Give the optimiser's first moments by the name of the parameter."""
    return {
        name: state["state"][index]["exp_avg"]
        for group in state["param_groups"]
        for index, name in zip(group["params"], group["param_names"], strict=True)
        if index in state["state"]
    }


def test_the_optimiser_goes_on_by_name_and_trains(trained, make_model, experts, batch):
    changed = {"new": experts["coarse"], "other": experts["other"], "coarse": experts["coarse"]}
    model, adapted, _ = go_on(trained, make_model, changed)
    assert not is_of(trained, model)
    assert is_of(adapted, model)
    wrapper = optimiser(model)
    wrapper.load_state_dict(adapted["optimizer"])
    before, after = moments(trained["optimizer"]), moments(wrapper.state_dict())
    assert {slot_of(name) for name in after} == {None, "other", "coarse"}
    for name, moment in after.items():
        assert torch.equal(moment, before[name]), name
    step(model, wrapper, batch)
    assert "projector.first.new.weight" in moments(wrapper.state_dict())


def test_a_reordered_config_alone_needs_the_optimiser_adapted(trained, make_model, experts):
    reordered = dict(reversed(experts.items()))
    model, adapted, carry = go_on(trained, make_model, reordered)
    assert not carry.changed
    assert not is_of(trained, model)
    assert is_of(adapted, model)


def test_a_checkpoint_without_names_gives_weights_and_no_state(trained, make_model, experts):
    for group in trained["optimizer"]["param_groups"]:
        del group["param_names"]
    assert is_of(trained, make_model(gate={"noise": 1.0}))
    _, adapted, _ = go_on(trained, make_model, {"coarse": experts["coarse"]})
    assert adapted["optimizer"]["state"] == {}
    weight = "projector.first.coarse.weight"
    assert torch.equal(adapted["state_dict"][weight], trained["state_dict"][weight])


def test_what_belongs_to_no_expert_must_fit(trained, make_model, experts):
    model = make_model(gate={"noise": 1.0}, projector={"hidden": 8})
    provenance = model.hub.provenance()
    with pytest.raises(CheckpointError, match="another shape"):
        adapted_checkpoint(trained, model, provenance, carry_over(trained, provenance))


def test_a_slim_checkpoint_has_only_what_is_attached(trained, experts):
    trained["meta"]["attached"] = ["coarse"]
    carry = carry_over(trained, trained["meta"]["experts"])
    assert (carry.kept, carry.new) == (("coarse",), ("fine", "other"))
    assert {slot_of(n) for n in carried_state(trained["state_dict"], carry)} == {None, "coarse"}
