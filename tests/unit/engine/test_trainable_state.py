"""Which parameters and buffers a checkpoint holds, whose they are, and which of them train."""

import pytest
from torch import nn

from tove.engine.trainable_state import choose_trained, keep_frozen_weights_out, slot_of
from tove.errors import ConfigError


def make_model() -> nn.Sequential:
    """A trained layer with its normalisation, and the same frozen."""
    frozen = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), frozen)
    keep_frozen_weights_out(model)
    return model


def test_statistics_are_kept_beside_what_trains_alone():
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert (
        set(make_model().state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"} | statistics
    )


@pytest.mark.parametrize(
    ("patterns", "trained"),
    [
        (["0"], {"0.weight", "0.bias"}),  # a module
        (["2.0.bias"], {"2.0.bias"}),  # a parameter
        (["*.weight"], {"0.weight", "1.weight", "2.0.weight", "2.1.weight"}),
        (["1", "2.1"], {"1.weight", "1.bias", "2.1.weight", "2.1.bias"}),
    ],
)
def test_what_a_pattern_names_trains_and_nothing_else(patterns: list[str], trained: set[str]):
    model = make_model()
    choose_trained(model, patterns, "trains")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trained
    assert trained < set(model.state_dict())


def test_a_pattern_that_names_nothing_is_told():
    with pytest.raises(ConfigError, match="trains names '3', which is no part of Sequential"):
        choose_trained(make_model(), ["3"], "trains")


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("hub.experts.depth.weight", "depth"),
        ("module.hub.experts.depth.weight", "depth"),  # of a model around it
        ("projector.first.clip.weight", None),
        ("projector.first.dino.weight", "dino"),
        ("projector.shared.weight", None),
        ("language.lm.weight", None),
        ("projector.first", None),
    ],
)
def test_a_parameter_belongs_to_a_slot_by_its_place(name: str, slot: str | None):
    assert slot_of(name, ("hub.experts", "projector.first")) == slot
