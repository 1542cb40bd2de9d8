"""The gate, its balance loss, and the exact saving in the mixture that it weighs."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from tove.methods.tove.balance import balance_loss, squared_variation
from tove.methods.tove.gate import GateOutput, TokenGate
from tove.modules.projector import Projector
from tove.modules.resample import resample_tokens

SLOTS = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("options", [{}, {"hidden": 5}, {"top_k": 2}, {"noise": 1.0, "top_k": 2}])
@pytest.mark.parametrize("detached", [(), ("b",), ("a", "c", "d")])
def test_rows_sum_to_one_and_detached_columns_are_zero(options, detached):
    gate = TokenGate(6, SLOTS, **options)
    weights = gate(torch.randn(2, 7, 6), detached).weights
    assert weights.shape == (2, 7, 4)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))
    for column, slot in enumerate(SLOTS):
        assert (weights[..., column] == 0).all() == (slot in detached)


def test_all_detached_gives_zeros_and_no_nan():
    assert torch.equal(
        TokenGate(6, SLOTS)(torch.randn(2, 7, 6), SLOTS).weights, torch.zeros(2, 7, 4)
    )


def test_detaching_is_minus_infinity_in_the_softmax():
    gate, tokens = TokenGate(6, SLOTS, temperature=0.5).double(), torch.randn(2, 7, 6).double()
    scores = torch.cat([gate.heads[slot](tokens) for slot in SLOTS], -1) / 0.5
    scores[..., 1] = -torch.inf
    torch.testing.assert_close(gate(tokens, ["b"]).weights, scores.softmax(-1))


def test_temperature_flattens():
    torch.manual_seed(1)
    sharp = TokenGate(6, SLOTS, temperature=0.1)
    flat = TokenGate(6, SLOTS, temperature=10.0)
    flat.load_state_dict(sharp.state_dict())
    tokens = torch.randn(2, 7, 6)
    assert sharp(tokens).weights.max() > 2 * flat(tokens).weights.max()


def test_top_k_keeps_the_best():
    gate = TokenGate(6, SLOTS, top_k=2)
    tokens = torch.randn(2, 7, 6)
    kept = gate(tokens).weights > 0
    assert (kept.sum(-1) == 2).all()
    gate.top_k = None
    best = gate(tokens).weights.topk(2, -1).indices
    assert kept.gather(-1, best).all()


def test_noise_is_for_training_only():
    gate, tokens = TokenGate(6, SLOTS, noise=1.0, top_k=2), torch.randn(2, 7, 6)
    assert not torch.equal(gate(tokens).weights, gate(tokens).weights)
    gate.eval()
    assert torch.equal(gate(tokens).weights, gate(tokens).weights)


@pytest.mark.parametrize("noise", [0.1, 2.0])
@pytest.mark.parametrize("top_k", [1, 2])
def test_smooth_load_is_the_chance_to_beat_the_others(noise, top_k):
    """P_k = Phi((clean_k - the top_k-th best noisy score of the others) / std_k), Shazeer's (9)."""
    gate = TokenGate(6, SLOTS, noise=noise, top_k=top_k).double()
    tokens = torch.randn(2, 7, 6).double()
    torch.manual_seed(3)
    found = gate(tokens)
    torch.manual_seed(3)
    clean = torch.cat([gate.heads[slot](tokens) for slot in SLOTS], -1)
    std = noise * (F.softplus(torch.cat([gate.noise_heads[s](tokens) for s in SLOTS], -1)) + 0.01)
    noisy = clean + torch.randn_like(clean) * std
    load = torch.zeros(4).double()
    for k in range(4):
        others = noisy[..., [other for other in range(4) if other != k]]
        threshold = others.sort(-1, descending=True).values[..., top_k - 1]
        load[k] = torch.special.ndtr((clean[..., k] - threshold) / std[..., k]).sum()
    torch.testing.assert_close(found.load.double(), load, atol=1e-5, rtol=0)
    best = noisy.topk(top_k, -1)
    weights = torch.zeros_like(noisy).scatter(-1, best.indices, best.values.softmax(-1))
    torch.testing.assert_close(found.weights, weights)


def test_the_smooth_load_trains_the_noise():
    gate, tokens = TokenGate(6, SLOTS, noise=1.0, top_k=2), torch.randn(2, 7, 6)
    found = gate(tokens)
    balance_loss(GateOutput(found.weights.detach(), found.load), SLOTS).backward()
    assert gate.noise_heads["a"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_without_noise_now_the_load_counts_tokens(noise):
    gate = TokenGate(6, SLOTS, noise=noise, top_k=2).eval()
    found = gate(torch.randn(2, 7, 6), ["b"])
    assert torch.equal(found.load, (found.weights > 0).sum((0, 1)).float())
    assert found.load.sum() == 2 * 14


def test_balance_loss_is_zero_for_uniform_gates_over_the_attached():
    weights = torch.full((2, 5, 4), 0.25)
    assert balance_loss(GateOutput(weights), SLOTS) == 0
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0]).div(3).expand(2, 5, 4)
    assert balance_loss(GateOutput(weights), SLOTS, ["b"]) < 1e-12
    # importance (1, 0, 1, 1) / 3 of a token: variance 1/48 over a squared mean of 1/16
    assert balance_loss(GateOutput(weights), SLOTS) == pytest.approx(1 / 3)
    load = torch.tensor([2.0, 0.0, 1.0, 0.0])  # variance 11/16 over a squared mean of 9/16
    both = balance_loss(GateOutput(weights, load), SLOTS)
    assert both == pytest.approx(1 / 3 + 11 / 9)
    # of two with 2/3 and 1/3 of a token each: variance 1/36 over a squared mean of 1/4
    two = balance_loss(GateOutput(torch.tensor([[[2.0, 1.0]]]) / 3), SLOTS[:2])
    assert two == pytest.approx(1 / 9)
    for gone in (SLOTS, SLOTS[1:]):
        assert balance_loss(GateOutput(weights), SLOTS, gone) == 0


def test_balance_loss_is_squared_variation_of_importance():
    weights = torch.rand(2, 5, 4).double()
    importance = weights.sum((0, 1))[[0, 2, 3]]
    expected = importance.var(correction=0) / importance.mean() ** 2
    torch.testing.assert_close(balance_loss(GateOutput(weights), SLOTS, ["b"]), expected)
    torch.testing.assert_close(squared_variation(importance), expected)


def test_importance_of_many_half_precision_tokens_is_exact():
    weights = torch.full((64, 256, 4), 0.25, dtype=torch.bfloat16)
    assert balance_loss(GateOutput(weights), SLOTS) == 0


ONE_OF_TWO = """
import sys, torch
from tove.methods.tove.gate import TokenGate
from tove.methods.tove.balance import balance_loss
rank, store, case = int(sys.argv[1]), sys.argv[2], torch.load(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
gate = TokenGate(6, case["slots"]).double()
gate.load_state_dict(case["state"])
parallel = torch.nn.parallel.DistributedDataParallel(gate)
loss = balance_loss(parallel(case["tokens"].chunk(2)[rank]), case["slots"])
loss.backward()
torch.testing.assert_close(loss.detach(), case["loss"])
torch.testing.assert_close(gate.heads["a"].weight.grad, case["grad"])
torch.distributed.destroy_process_group()
"""


def test_two_processes_balance_as_one_with_the_whole_batch(tmp_path):
    gate, tokens = TokenGate(6, SLOTS).double(), torch.randn(4, 7, 6).double()
    loss = balance_loss(gate(tokens), SLOTS)
    loss.backward()
    case = {"slots": SLOTS, "state": gate.state_dict(), "tokens": tokens}
    case |= {"loss": loss.detach(), "grad": gate.heads["a"].weight.grad}
    torch.save(case, tmp_path / "case.pt")
    command = [sys.executable, "-c", ONE_OF_TWO]
    arguments = [f"file://{tmp_path}/store", str(tmp_path / "case.pt")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [
        subprocess.Popen([*command, str(rank), *arguments], env=environment) for rank in range(2)
    ]
    assert [process.wait(timeout=60) for process in ranks] == [0, 0]


GRIDS = {"a": (4, 4), "b": (3, 5), "c": (8, 8)}


@pytest.fixture
def projector():
    return Projector(6, {"a": 5, "b": 40, "c": 7}, (4, 4), GRIDS, 9, 11).double()


def test_fused_mixture_equals_the_naive_form(projector):
    tokens = {
        slot: torch.randn(2, h * w, projector.first[slot].in_features).double()
        for slot, (h, w) in GRIDS.items()
    }
    gates = torch.randn(2, 16, 3).double().softmax(-1)
    naive = torch.zeros(2, 16, 11).double()
    for column, slot in enumerate(GRIDS):
        resampled = resample_tokens(tokens[slot], GRIDS[slot], (4, 4))
        projected = projector.shared(F.gelu(projector.first[slot](resampled)))
        naive += gates[..., column : column + 1] * projected
    torch.testing.assert_close(projector.mix(gates, list(GRIDS), tokens), naive, atol=1e-10, rtol=0)


def test_a_gate_that_sees_the_experts_adds_what_their_own_tokens_say():
    gate = TokenGate(6, SLOTS, sees="experts", expert_width=5, temperature=0.5)
    tokens, seen = torch.randn(2, 7, 6), {slot: torch.randn(2, 7, 5) for slot in SLOTS}
    scores = [gate.heads[slot](tokens) + gate.own_heads[slot](seen[slot]) for slot in SLOTS]
    expected = (torch.cat(scores, -1) / 0.5).softmax(-1)
    torch.testing.assert_close(gate(tokens, (), seen).weights, expected)


def test_an_expert_that_goes_leaves_the_others_in_their_proportions():
    gate = TokenGate(6, SLOTS, sees="experts", expert_width=5)
    tokens, seen = torch.randn(2, 7, 6), {slot: torch.randn(2, 7, 5) for slot in SLOTS}
    whole = gate(tokens, (), seen).weights
    without = gate(tokens, ["b"], {slot: seen[slot] for slot in "acd"}).weights
    rest = whole[..., [0, 2, 3]] / (1 - whole[..., 1:2])
    torch.testing.assert_close(without[..., [0, 2, 3]], rest)
    assert (without[..., 1] == 0).all()
