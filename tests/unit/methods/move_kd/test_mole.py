"""MoLE: its two forms against a loop over tokens, gradients, dtypes, compilation, host syncs."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPMLP

from tove.errors import ConfigError
from tove.methods.move_kd.balance import routing_balance
from tove.methods.move_kd.mole import MoLE, record_routing
from tove.methods.move_kd.sorted_lora import SortedLoRALinear, draw_kept


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(d_model=12, d_hidden=20, dtype=torch.float64, **options):
    """A MoLE whose biases and router matter."""
    config = CLIPVisionConfig(
        hidden_size=d_model, intermediate_size=d_hidden, num_attention_heads=1
    )
    ffn = CLIPMLP(config) if dtype == torch.float32 else CLIPMLP(config).to(dtype)
    mole = MoLE(ffn, **{"rank": 4, "dropout": 0.0, **options})
    for name, parameter in mole.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return mole


def by_loops(mole, x):
    """The equations, token by token and expert by expert."""
    rows = []
    for token in x.flatten(0, 1):
        p = (mole.router.weight @ token + mole.router.bias).softmax(-1)
        best = p.argmax()

        def add(pairs, value, p=p, best=best):
            total = 0
            for e in range(len(p)):
                weight = p[e] if mole.routing == "dense" else float(e == best)
                if mole.router_gradient == "gate_scale":
                    weight = weight * p[e]
                u = pairs.A[e] @ value + pairs.A_bias[e]
                total = total + weight * (u @ pairs.B[e] + pairs.B_bias[e])
            return mole.scale * total

        fc1, act, fc2 = mole.layers()
        if mole.placement == "around":
            rows.append(fc2(act(fc1(token))) + add(mole.around, token))
        else:
            h = act(fc1(token) + add(mole.down, token))
            rows.append(fc2(h) + add(mole.up, h))
    return torch.stack(rows).view_as(x)


def step(mole, x, run):
    mole.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    y = run(x)
    y.square().sum().backward()
    return y.detach(), x.grad, {name: p.grad for name, p in mole.named_parameters()}


@pytest.mark.parametrize("form", ["mask", "sorted"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_experts": 5, "alpha": 7.0},
        {"router_gradient": "gate_scale"},
        {"router_gradient": "straight_through"},
        {"routing": "dense"},
        {"placement": "around"},
        {"placement": "around", "routing": "dense"},
    ],
    ids=str,
)
def test_forms_are_the_equations(options, form):
    mole, x = make(form=form, **options), torch.randn(2, 7, 12).double()
    y, grad_x, grads = step(mole, x, mole)
    expected_y, expected_x, expected = step(mole, x, lambda x: by_loops(mole, x))
    torch.testing.assert_close(y, expected_y, atol=1e-11, rtol=0)
    if options.get("router_gradient") == "straight_through":
        return  # the loop says nothing of that gradient: the next test does
    torch.testing.assert_close(grad_x, expected_x, atol=1e-11, rtol=0)
    for name, grad in expected.items():
        if grad is None:
            assert grads[name] is None, name
        else:
            torch.testing.assert_close(grads[name], grad, atol=1e-11, rtol=0)


@pytest.mark.parametrize("form", ["mask", "sorted"])
def test_straight_through_gives_the_router_the_experts_gradient(form):
    mole = make(form=form, router_gradient="straight_through", d_hidden=12)
    x = torch.randn(1, 1, 12).double()
    # Of one token: d loss / d p_e is the gradient of what the experts add, in direction of itself.
    _, _, grads = step(mole, x, mole)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    p = mole.route(x)[0, 0]
    best = int(p.argmax())
    onehot = torch.eye(3, dtype=torch.float64)[best][None]
    fc1, act, fc2 = mole.layers()
    h = act(mole.down.add_to(fc1(x[0]), x[0], onehot * weight, mole.scale))
    mole.up.add_to(fc2(h), h, onehot * weight, mole.scale).square().sum().backward()
    (expected,) = torch.autograd.grad(p[best] * weight.grad, mole.router.bias)
    torch.testing.assert_close(grads["router.bias"], expected, atol=1e-11, rtol=0)
    assert expected.abs().max() > 1e-4


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("x_trains", [False, True])
def test_sorted_linear_passes_gradcheck(kept, x_trains):
    shapes = {"x": (6, 5), "W": (4, 5), "b": (4,), "A": (3, 2, 5), "a": (3, 2), "B1": (3, 3, 4)}
    values = [torch.randn(s).double().requires_grad_() for s in (*shapes.values(), (6, 1))]
    values[0].requires_grad_(x_trains)
    drawn = (torch.rand(6, 5) > 0.3, 1 / 0.7) if kept else None

    def run(*values):
        return SortedLoRALinear.apply(*values, drawn, [2, 0, 4], 0.25)

    assert torch.autograd.gradcheck(run, values)


def test_sorted_dropout_is_dropout_of_the_pairs_input():
    mole = make(form="sorted", dropout=0.5).train()
    x = torch.randn(1, 3, 12).double()
    masked = copy.deepcopy(mole)
    masked.form = "mask"
    with torch.no_grad():
        draws, reference = (torch.stack([m(x) for _ in range(1000)]) for m in (mole, masked))
    assert not torch.equal(draws[0], draws[1])
    error = draws.std(0) * (2 / 1000) ** 0.5
    assert ((draws.mean(0) - reference.mean(0)).abs() < 6 * error).all()
    assert ((draws.std(0) / reference.std(0)).log().abs() < 0.2).all()
    mole.eval()
    assert torch.equal(mole(x), mole(x))


def test_drawn_dropout_keeps_its_share():
    for share in (0.05, 0.5):
        kept, scale = draw_kept(torch.empty(333, 1001), share)
        assert kept.shape == (333, 1001)
        assert kept.float().mean().item() == pytest.approx(1 - share, abs=3e-3)
        assert scale == pytest.approx(1 / (1 - share), rel=1e-4)
        # No column, row or neighbour is favoured.
        assert kept.float().mean(0).std() < 1.3 * (share * (1 - share) / 333) ** 0.5
        pairs = (kept[:, 1:] & kept[:, :-1]).float().mean().item()
        assert pairs == pytest.approx((1 - share) ** 2, abs=4e-3)


def test_an_expert_without_tokens_costs_nothing_and_has_a_zero_gradient():
    mole = make(form="sorted")
    nn.init.zeros_(mole.router.weight)
    mole.router.bias.data = torch.tensor([0.0, 9.0, 0.0]).double()
    _, _, grads = step(mole, torch.randn(1, 5, 12).double(), mole)
    for name in ("down.A", "down.B", "up.A_bias", "up.B_bias"):
        assert grads[name][[0, 2]].abs().max() == 0 < grads[name][1].abs().max()


def test_zero_B_leaves_the_ffn_unchanged_and_learns():
    config = CLIPVisionConfig(hidden_size=12, intermediate_size=20)
    ffn = CLIPMLP(config)
    x = torch.randn(2, 7, 12)
    plain = ffn(x)
    mole = MoLE(ffn, rank=4, init="zero")
    torch.testing.assert_close(mole(x), plain)
    mole(x).square().sum().backward()
    assert mole.up.B.grad.abs().max() > 0


@pytest.mark.parametrize("form", ["mask", "sorted"])
def test_half_precision_and_autocast(form):
    mole, x = make(64, 96, torch.float32, form=form), torch.randn(2, 9, 64)
    expected = mole(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mole(x)
        mixed.float().sum().backward()
    assert mixed.dtype == torch.bfloat16
    assert mole.down.A.grad.dtype == torch.float32
    half = copy.deepcopy(mole).bfloat16()
    y = half(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    same = (half.route(x.bfloat16()).argmax(-1) == mole.route(x).argmax(-1))[..., None]
    scale = expected.abs().mean()
    for found in (mixed, y):
        assert ((found.float() - expected) * same).abs().mean() < 0.02 * scale
    with record_routing(half) as routing:
        half(x.bfloat16())
    assert routing[0].dtype == torch.float32  # sums over thousands of tokens follow


def test_compiles_whole_and_records_its_routing():
    mole, x = make(dtype=torch.float32), torch.randn(2, 7, 12)
    compiled = torch.compile(mole, fullgraph=True, backend="aot_eager")
    with record_routing(mole) as routing:
        y = compiled(x)
    torch.testing.assert_close(y, mole(x))
    torch.testing.assert_close(routing[0], mole.route(x))
    (y.sum() + routing[0][..., 0].sum()).backward()
    found = mole.router.weight.grad.clone()
    mole.zero_grad()
    mole.route(x)[..., 0].sum().backward()
    torch.testing.assert_close(found, mole.router.weight.grad)


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("routing", ["top1", "dense"])
@pytest.mark.parametrize("placement", ["inside", "around"])
def test_an_accelerator_is_never_waited_for(placement, routing):
    options = {"placement": placement, "routing": routing, "router_gradient": "gate_scale"}
    # Neither a fake tensor nor one on "meta" has numbers: whatever reads one on the host raises.
    with FakeTensorMode(), torch.device("cuda"):
        mole = make(dtype=torch.float32, dropout=0.05, **options).train()
        y = mole(torch.randn(2, 7, 12))
    assert y.device.type == "cuda"
    assert y.shape == (2, 7, 12)
    with torch.device("meta"):
        mole = make(dtype=torch.float32, dropout=0.05, **options).train()
        mole(torch.randn(2, 7, 12)).sum().backward()
    assert mole.router.weight.grad.shape == (3, 12)


def test_flops_are_those_of_the_parts():
    mole, x = make(64, 256, torch.float32), torch.randn(1, 10, 64)
    ffn, router = 2 * 2 * 10 * 64 * 256, 2 * 10 * 64 * 3
    pairs = 2 * 10 * (64 * 4 + 5 * 256 + 256 * 4 + 5 * 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mole(x)
    assert counter.get_total_flops() == ffn + router + pairs
    mole.form = "mask"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mole(x)
    assert counter.get_total_flops() == ffn + router + 3 * pairs


def test_the_backward_of_what_is_frozen_is_not_paid_for():
    mole, x = make(64, 256, torch.float32), torch.randn(1, 10, 64)
    flops, grads = [], []
    for frozen in (False, True):
        mole.ffn.requires_grad_(not frozen)
        mole.zero_grad()
        y = mole(x.clone().requires_grad_(not frozen))
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        flops.append(counter.get_total_flops())
        grads.append(mole.down.A.grad.clone())
    torch.testing.assert_close(*grads)
    # Both weights' gradients, the input's of the FFN and of the pairs.
    assert flops[0] - flops[1] == 2 * 10 * (3 * 64 * 256 + 4 * 64)


def test_a_linear_layer_with_its_own_forward_is_called():
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    ffn = CLIPMLP(CLIPVisionConfig(hidden_size=12, intermediate_size=20))
    ffn.fc2 = Counting(20, 12)
    mole = MoLE(ffn, rank=4)
    mole(torch.randn(1, 3, 12))
    assert ffn.fc2.calls == 1


def test_routing_is_let_go_of():
    mole, x = make(), torch.randn(1, 3, 12).double()
    with record_routing(nn.Sequential(mole, mole)) as routing:
        mole(mole(x))
    assert [p.shape for p in routing] == [(1, 3, 3)] * 2
    mole(x)
    assert len(routing) == 2
    assert mole.record is None
    with pytest.raises(RuntimeError, match="boom"), record_routing(mole):
        raise RuntimeError("boom")
    assert mole.record is None


def test_what_is_no_ffn_is_a_sentence():
    with pytest.raises(ConfigError, match="Linear"):
        MoLE(nn.Linear(3, 3))


@pytest.mark.parametrize("form", ["mask", "sorted"])
def test_gradient_checkpointing_changes_nothing(form):
    mole = make(form=form, dropout=0.3).train()
    x = torch.randn(2, 7, 12).double().requires_grad_()
    grads = []
    for checkpointed in (False, True):
        mole.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        with record_routing(mole) as routing:
            y = checkpoint(mole, x, use_reentrant=False) if checkpointed else mole(x)
        (y.square().sum() + routing_balance(routing)).backward()
        assert len(routing) == 1
        grads.append([parameter.grad for parameter in mole.parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(again, plain)
