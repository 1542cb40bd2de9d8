"""What a claim's page tells of the gates of its arms."""

import json
from typing import Any

import pytest
import torch

from tove.data.tiny_world.rendered import make_pool
from tove.reproduce.answers import gather
from tove.reproduce.claim import read_claim
from tove.reproduce.gate_on_objects import object_tokens, weights_on_objects
from tove.reproduce.gate_table import gate_table, rank_correlation
from tove.reproduce.page import answer, write_outcome
from tove.reproduce.records import _looks

METRIC = "vsr/accuracy"
GATE = {"entropy": 0.9, "share": {"depth": 0.7, "dino": 0.3}}


def test_rank_correlation_is_spearman_s():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == 1.0
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == -1.0
    # 1 - 6 sum d^2 / n (n^2 - 1) with d = 0, 1, -1, 0
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 12 / 60)
    # Equal values share their ranks: 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def row(**entries: Any) -> dict[str, Any]:
    return {"gate": GATE, **entries}


def test_a_table_has_shares_places_and_agreement_of_arms_that_have_a_gate():
    looked = {
        "on_objects": {
            "objects": {"depth": 0.8, "dino": 0.2},
            "elsewhere": {"depth": 0.6, "dino": 0.4},
            "object_share": 0.2,
        },
        "contribution": {"shapley": {METRIC: {"depth": 0.01, "dino": 0.05}}},
    }
    rows = {"plain": {0: {}}, "bare": {0: row()}, "ours": {0: row(**looked), 1: row(**looked)}}
    heads, bare, ours = gate_table(rows, METRIC)
    assert heads == ["arm", "entropy", "depth", "dino", "agreement (statement accuracy)"]
    assert bare == ["bare", "0.90", "0.70", "0.30", ""]
    assert ours == ["ours", "0.90", "0.70 (0.80 / 0.60)", "0.30 (0.20 / 0.40)", "-1.00"]
    assert gate_table({"plain": {0: {}}}, METRIC) == []


def test_an_expert_that_one_arm_lacks_leaves_its_cell_empty():
    alone = {"gate": {"entropy": 0.5, "share": {"dino": 1.0}}}
    assert gate_table({"both": {0: row()}, "less": {0: alone}}, METRIC)[2][2:4] == ["", "1.00"]


def test_the_page_of_a_claim_has_the_table(write_claim, make_record, tmp_path):
    claim = read_claim("helps", write_claim().parent)
    records = {name: {0: make_record(0, {name: 0.8})} for name in ("plain", "ours")}
    records["ours"][0].told["rows"][0]["gate"] = GATE
    kept = [own[0] for own in records.values()]
    page = write_outcome(answer(claim, gather(records, {}), kept), tmp_path).read_text()
    assert "## Gates" in page
    assert "| ours | 0.90 | 0.70 | 0.30 |  |" in page
    assert "| plain | 0.90" not in page


def test_weights_on_objects_are_those_of_the_tokens_that_objects_fill():
    pool = make_pool(16, 0, 4)
    is_object_IN = object_tokens(pool.instance, (8, 8))
    assert is_object_IN.shape == (4, 64)
    for scene in range(4):  # the middle of what is seen of a large object is its own
        largest = max(pool.things[scene], key=lambda t: (t.box[2] - t.box[0]) if t.clear else 0)
        token = 8 * int(8 * largest.y) + int(8 * largest.x)
        assert is_object_IN[scene, token]
        assert not is_object_IN[scene].all()
    weights_INK = torch.where(
        is_object_IN[..., None], torch.tensor([0.9, 0.1]), torch.tensor([0.4, 0.6])
    )
    told = weights_on_objects(weights_INK, is_object_IN, ("a", "b"))
    assert told["objects"] == {"a": 0.9, "b": 0.1}
    assert told["elsewhere"] == {"a": 0.4, "b": 0.6}
    assert told["object_share"] == pytest.approx(is_object_IN.float().mean().item(), abs=1e-5)


def test_what_stages_tell_of_a_model_is_kept_with_its_row(tmp_path):
    for name, told in {
        "adds/contribution": {"measures": {"shapley": {METRIC: {"a": {"value": 0.25, "low": 0}}}}},
        "looks/on_objects": {"object_share": 0.5},
    }.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir()
        path.write_text(json.dumps(told))
    stages = [{"name": "t"}, {"name": "adds", "source": "t"}, {"name": "looks", "source": "t"}]
    assert _looks(tmp_path, stages) == {
        "t": {
            "contribution": {"shapley": {METRIC: {"a": 0.25}}},
            "on_objects": {"object_share": 0.5},
        }
    }
