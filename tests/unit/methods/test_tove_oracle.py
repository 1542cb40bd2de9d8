"""Every number of the ToVE fixture: naive loops over tokens and experts, in float64."""

from types import SimpleNamespace

import pytest
import torch

from tove.methods.tove.balance import balance_loss
from tove.methods.tove.gate import GateOutput, TokenGate
from tove.methods.tove.merging import LOSSES
from tove.methods.tove.transfer import ResidualTransfer
from tove.modules.projector import Projector
from tove.modules.resample import resample_tokens

SLOTS = ("0", "1", "2")
GRID = (5, 5)


@pytest.fixture(scope="module")
def fixture(oracle):
    return oracle.read("tove")


def make(oracle, fixture, **gate):
    """The modules with the fixture's numbers, and its tokens."""
    values, sizes = oracle.inputs(fixture["inputs"]), fixture["shapes"]
    widths = dict(zip(SLOTS, sizes["d_k"], strict=True))
    projector = Projector(
        sizes["d_clip"], widths, GRID, dict.fromkeys(SLOTS, GRID), sizes["d_h"], sizes["d_lang"]
    )
    state = {"shared.weight": values["W_s"], "shared.bias": values["b_s"]}
    for slot in ("clip", *SLOTS):
        state[f"first.{slot}.weight"] = values[f"W_{slot}"]
        state[f"first.{slot}.bias"] = values[f"b_{slot}"]
    projector.double().load_state_dict(state)
    token_gate = TokenGate(sizes["d_clip"], SLOTS, **gate).double().train()
    heads = {f"heads.{k}.weight": values["G"][k : k + 1] for k in range(3)}
    heads |= {f"heads.{k}.bias": values["G_b"][k : k + 1] for k in range(3)}
    if "noise" in gate:
        heads |= {f"noise_heads.{k}.weight": values["W_noise"][k : k + 1] for k in range(3)}
    token_gate.load_state_dict(heads)
    transfer = ResidualTransfer(sizes["d_lang"], sizes["mlp_t_hidden"]).double()
    names = {"inner.weight": "T1", "inner.bias": "T1_b", "outer.weight": "T2", "outer.bias": "T2_b"}
    state = {own: values[name] for own, name in names.items()}
    transfer.load_state_dict(
        state | {"scale": torch.tensor(fixture["lambda"], dtype=torch.float64)}
    )
    tokens = {slot: values[f"t_{slot}"] for slot in SLOTS}
    t_clip = values["t_clip"].clone().requires_grad_()
    return SimpleNamespace(
        projector=projector,
        gate=token_gate,
        transfer=transfer,
        tokens=tokens,
        t_clip=t_clip,
        values=values,
    )


def fuse(parts, attached):
    """t_fuse as the model composes it."""
    detached = [slot for slot in SLOTS if int(slot) not in attached]
    v = parts.projector.project_clip(parts.t_clip)
    gate = parts.gate(parts.t_clip, detached)
    if not attached:
        return SimpleNamespace(t_fuse=v, v=v, gate=gate, z=None, balance=v.new_zeros(()))
    tokens = {slot: own for slot, own in parts.tokens.items() if slot not in detached}
    z = parts.projector.mix(gate.weights, SLOTS, tokens)
    # The fixture's loss is of importance alone; top_k adds the load's, which has no gradient here.
    balance = balance_loss(GateOutput(gate.weights), SLOTS, detached)
    return SimpleNamespace(t_fuse=parts.transfer(v, z), v=v, gate=gate, z=z, balance=balance)


def gradients(parts):
    """Gradients by the fixture's names; None where there is none."""
    first, transfer = parts.projector.first, parts.transfer
    heads = [parts.gate.heads[slot] for slot in SLOTS]

    def stacked(grads):
        if all(grad is None for grad in grads):
            return None
        zero = torch.zeros_like(next(grad for grad in grads if grad is not None))
        return torch.cat([zero if grad is None else grad for grad in grads])

    found = {f"W_{slot}": first[slot].weight.grad for slot in ("clip", *SLOTS)}
    found |= {f"b_{slot}": first[slot].bias.grad for slot in ("clip", *SLOTS)}
    return found | {
        "t_clip": parts.t_clip.grad,
        "W_s": parts.projector.shared.weight.grad,
        "b_s": parts.projector.shared.bias.grad,
        "G": stacked([head.weight.grad for head in heads]),
        "G_b": stacked([head.bias.grad for head in heads]),
        "T1": transfer.inner.weight.grad,
        "T2_b": transfer.outer.bias.grad,
        "lambda": transfer.scale.grad,
    }


CASES = ("all", "without_1", "only_2", "none", "temperature_0.5", "top_2", "top_1")


def test_every_case_is_held(fixture):
    assert set(CASES) == set(fixture["cases"])


@pytest.mark.parametrize("name", CASES)
def test_fusion(oracle, fixture, name):
    case = fixture["cases"][name]
    options = {key: case[key] for key in ("temperature", "top_k") if key in case}
    parts = make(oracle, fixture, **options)
    out = fuse(parts, case["attached"])
    oracle.check(out.t_fuse, case["t_fuse"])
    for key in ("v", "z"):
        if key in case:
            oracle.check(getattr(out, key), case[key])
    weights = out.gate.weights
    if "gate" in case:
        oracle.check(weights, case["gate"])
        oracle.close(weights.sum((0, 1)).detach(), case["importance"])
    if "smallest_kept_weight" in case:
        oracle.close(weights[weights > 0].min().detach(), case["smallest_kept_weight"])
    if "balance_population_variance" in case:
        oracle.close(out.balance.detach(), case["balance_population_variance"])
        kept = len(case["attached"])
        oracle.close(out.balance.detach() * kept / (kept - 1), case["balance_sample_variance"])
    (out.t_fuse * oracle.probe(out.t_fuse.shape)).sum().add(0.01 * out.balance).backward()
    found = gradients(parts)
    for key, numbers in case["grad"].items():
        if isinstance(numbers, float):
            oracle.close(found[key], numbers)
        else:
            oracle.check_grad(found[key], numbers, key)


@pytest.mark.parametrize("top_k", [1, 2])
def test_noisy_gate(oracle, fixture, top_k, monkeypatch):
    case = fixture[f"noisy_top_{top_k}"]
    parts = make(oracle, fixture, noise=1.0, top_k=top_k)
    monkeypatch.setattr(torch, "randn_like", lambda scores: parts.values["eps"])
    out = parts.gate(parts.t_clip)
    oracle.check(out.weights, case["gate"])
    oracle.close(out.load.detach(), case["load"], 1e-5)  # Phi is evaluated in float32
    oracle.close(out.weights.sum((0, 1)).detach(), case["importance"])


@pytest.mark.parametrize("loss", LOSSES)
def test_merging(oracle, fixture, loss):
    case, parts = fixture["merging"], make(oracle, fixture)
    target = fuse(parts, [0, 1, 2]).t_fuse.detach()
    student = parts.values["t_clip_student"].clone().requires_grad_()
    prediction = parts.projector.project_clip(student)
    oracle.check(prediction, case["prediction"])
    value = LOSSES[loss](prediction, target)
    oracle.close(value.detach(), case[loss]["loss"])
    value.backward()
    oracle.check_grad(student.grad, case[loss]["grad_t_clip_student"])


@pytest.mark.parametrize(
    ("name", "seed", "side"),
    [("4_to_5_bilinear", 704, 4), ("10_to_5_antialias", 710, 10), ("7_to_5_antialias", 707, 7)],
)
def test_resampling(oracle, fixture, name, seed, side):
    case = fixture["resample"][name]
    tokens = oracle.fill((2, side * side, 6), seed)
    oracle.check(resample_tokens(tokens, (side, side), GRID), case["output"])
