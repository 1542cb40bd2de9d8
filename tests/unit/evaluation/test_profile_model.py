"""The costs of a model's parts against the model as a whole."""

import pytest
import torch

from tove.evaluation.profile.model import measure_cost
from tove.evaluation.profile.parameters import count_parameters

CPU = torch.device("cpu")
PART = {
    "trainable_parameters",
    "total_parameters",
    "flops",
    "forward_ms",
    "peak_memory_mb",
}


def parts_of(cost: dict) -> list[dict]:
    return [cost["encoder"], *cost["experts"].values(), cost["fusion"]]


def test_the_parts_add_up_to_the_whole(make_model):
    model = make_model()
    row = measure_cost(model, 40, CPU)
    cost = row["cost"]
    assert list(cost["experts"]) == ["coarse", "fine"]
    assert cost["device"] == "cpu"
    for part in parts_of(cost):
        assert part.keys() == PART
        assert part["forward_ms"] > 0
        assert part["peak_memory_mb"] < row["peak_memory_mb"]
    everything = [*parts_of(cost), cost["language"]]
    for count in ("trainable_parameters", "total_parameters"):
        assert sum(part[count] for part in everything) == row[count]
    assert (row["trainable_parameters"], row["total_parameters"]) == count_parameters(model)
    assert row["flops"] == sum(part["flops"] for part in parts_of(cost))
    # 8 x 8 cells of 10 numbers, each a sum over 3 channels of 4 x 4 pixels
    assert cost["experts"]["fine"]["flops"] == 2 * 64 * 10 * 3 * 16


def test_an_expert_that_is_gone_costs_nothing_and_leaves_the_others_as_they_were(make_model):
    whole, less = (measure_cost(make_model(detached=d), 40, CPU) for d in ([], ["fine"]))
    assert list(less["cost"]["experts"]) == ["coarse"]
    kept, before = (row["cost"]["experts"]["coarse"] for row in (less, whole))
    assert kept["flops"] == before["flops"]
    assert less["flops"] < whole["flops"] - whole["cost"]["experts"]["fine"]["flops"]
    assert less["peak_memory_mb"] < whole["peak_memory_mb"]


@pytest.mark.parametrize("kind", ["MatchedBaseline", "PlainCLIP"])
def test_arms_without_experts_have_the_same_parts(kind: str, make_model):
    row = measure_cost(make_model(kind=kind), 40, CPU)
    assert row["cost"]["experts"] == {}
    assert row["flops"] == sum(part["flops"] for part in parts_of(row["cost"]))


def test_tokens_that_a_cache_keeps_on_another_grid_are_fused_on_it(make_model, tmp_path):
    kept = make_model(token_cache={"dir": str(tmp_path)})  # pools what is finer than CLIP's grid
    assert kept.hub.grids["fine"] == kept.encoder.grid != (8, 8)
    costs = [measure_cost(model, 40, CPU)["cost"] for model in (kept, make_model())]
    assert costs[0]["experts"]["fine"]["flops"] == costs[1]["experts"]["fine"]["flops"]
    assert 0 < costs[0]["fusion"]["flops"] <= costs[1]["fusion"]["flops"]


def test_measuring_leaves_the_mode_alone_and_asks_for_no_gradient(make_model):
    model = make_model(expert_dropout=1.0).train()
    measure_cost(model, 40, CPU)
    assert model.training
    assert not any(p.grad is not None for p in model.parameters())
