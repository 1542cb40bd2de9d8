"""What is noted of a gate while a model is evaluated."""

import math

import pytest
import torch

from tove.engine.gate_summary import GateSummary, noting_gate


def test_entropy_and_shares_are_means_over_the_tokens_of_all_batches():
    summary = GateSummary(("a", "b"))
    summary.add(torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]))
    summary.add(torch.tensor([[[0.25, 0.75]]]))
    third = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    told = summary.told(("a", "b"))
    assert told["entropy"] == pytest.approx((0 + 1 + third) / 3, abs=1e-5)
    assert told["share"] == {
        "a": pytest.approx(1.75 / 3, abs=1e-5),
        "b": pytest.approx(1.25 / 3, abs=1e-5),
    }


def test_entropy_counts_the_experts_that_run():
    summary = GateSummary(("a", "b", "c"))
    summary.add(torch.tensor([[[0.5, 0.0, 0.5]]]))
    assert summary.told(("a", "c")) == {"entropy": 1.0, "share": {"a": 0.5, "c": 0.5}}
    assert summary.told(("a",)) == {}  # nothing to choose among


def test_what_is_noted_is_what_an_evaluation_s_gate_decides(make_model, batch):
    model = make_model().eval()
    with noting_gate(model) as noted:
        fused = model.fuse(batch["images"])
    model.fuse(batch["images"][:1])  # nobody listens any more
    share = noted.told(model.hub.attached)["share"]
    weights = fused.gates.weights.mean((0, 1)).tolist()
    assert list(share.values()) == pytest.approx(weights, abs=1e-5)


def test_of_a_model_without_a_gate_nothing_is_noted(make_model, batch):
    model = make_model(kind="UniformAverage").eval()
    with noting_gate(model) as noted:
        model.fuse(batch["images"])
    assert noted.told(model.hub.attached) == {}
