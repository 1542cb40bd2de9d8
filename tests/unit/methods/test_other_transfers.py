"""What stands in place of the residual transfer, or of its shared layer: each by its equation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tove.config.validation import check_model
from tove.errors import ConfigError
from tove.methods.baselines.other_transfers import CrossAttentionTransfer, ToVECrossAttention
from tove.methods.tove.merging import Merge

KINDS = ["ToVEReplace", "ToVEConcat", "ToVECrossAttention", "ToVESeparateLayers"]
STARTED = {"scale": 3.0, "zero_init": False}


@pytest.fixture
def make(make_model):
    def make(kind, **options):
        return make_model(kind=kind, transfer=STARTED, **options)

    return make


def attended(transfer, v, z):
    """Return torch's own multi-head attention with the transfer's weights."""
    torch_s = nn.MultiheadAttention(
        transfer.query.out_features, transfer.num_heads, bias=False, batch_first=True
    )
    asked = transfer.norm_z(z)
    torch_s.in_proj_weight.data.copy_(torch.eye(transfer.query.out_features).repeat(3, 1))
    torch_s.out_proj.weight.data.copy_(torch.eye(transfer.query.out_features))
    ours = transfer.query(transfer.norm_v(v)), transfer.key(asked), transfer.value(asked)
    return torch_s(*ours, need_weights=False)[0]


def expected(model, images):
    t_clip, tokens = model.encoder(images), model.hub(images)
    v, transfer = model.projector.project_clip(t_clip), model.transfer
    hidden = {slot: model.projector.hidden_tokens(slot, t) for slot, t in tokens.items()}
    weights = model.gate(t_clip, experts=hidden).weights
    z = torch.zeros_like(v)
    for column, slot in enumerate(tokens):
        own = getattr(model.projector, "second", None)
        layer = model.projector.shared if own is None else own[slot]
        z = z + weights[..., column : column + 1] * layer(hidden[slot])
    if isinstance(model, ToVECrossAttention):
        return v + 3 * transfer.outer(attended(transfer, v, z))
    kind = type(model).__name__
    joint = torch.cat([v, z], -1) if kind == "ToVEConcat" else z
    said = 3 * transfer.outer(F.gelu(transfer.inner(joint)))
    return v + said if kind == "ToVESeparateLayers" else said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sees", ["clip", "experts"])
def test_each_computes_its_equation(make, kind, sees):
    images = torch.rand(2, 3, 40, 40)
    model = make(kind, gate={"sees": sees}).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.fuse(images).t_fuse, expected(model, images))


@pytest.mark.parametrize("kind", KINDS)
def test_each_trains_all_that_it_trains_and_loads_again(make, batch, kind):
    model = make(kind)
    sum(model(**batch, mode="loss").values()).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    unused = {name for name in trained if model.get_parameter(name).grad is None}
    assert bool(unused) == model.leaves_unused
    assert all(name.startswith("projector.first.clip.") for name in unused)
    again = make(kind, seed=1)
    again.load_trainable(model.state_dict())
    for slot, expert in model.hub.experts.items():
        again.hub.experts[slot].load_state_dict(expert.state_dict())
    images = torch.rand(2, 3, 40, 40)
    torch.testing.assert_close(again.eval()(images), model.eval()(images))


@pytest.mark.parametrize("kind", KINDS)
def test_with_no_expert_left_each_is_plain_clip(make, kind):
    model = make(kind).eval()
    for slot in model.slots:
        model.hub.detach(slot)
    images = torch.rand(2, 3, 40, 40)
    v = model.projector.project_clip(model.encoder(images))
    assert torch.equal(model.fuse(images).t_fuse, v)


def test_what_is_an_expert_s_own_goes_with_it(make):
    model = make("ToVESeparateLayers")
    model.hub.detach("fine")
    assert not any(".second.fine." in name for name in model.slim_state_dict())
    assert any(".second.coarse." in name for name in model.slim_state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_each_runs_in_bfloat16_on_meta_and_is_merged(make, batch, kind):
    assert make(kind).bfloat16().fuse(batch["images"]).t_fuse.dtype == torch.bfloat16
    fused = make(kind).to("meta").fuse(batch["images"].to("meta"))
    assert fused.t_fuse.shape == (3, 16, 20)
    (loss,) = Merge(make(kind))(**batch, mode="loss").values()
    assert loss > 0


def test_cross_attention_starts_as_plain_clip_and_its_heads_have_to_fit():
    v, z = torch.rand(1, 4, 24), torch.rand(1, 4, 24)
    transfer = CrossAttentionTransfer(24, num_heads=3)
    assert torch.equal(transfer(v, z), v)
    assert transfer.scale.requires_grad
    assert CrossAttentionTransfer(20).query.out_features == 8
    assert CrossAttentionTransfer(4).query.out_features == 4
    with pytest.raises(ConfigError, match=r"transfer\.hidden is 12 wide, which 5 heads"):
        CrossAttentionTransfer(24, hidden=12, num_heads=5)
    with pytest.raises(ConfigError, match=r"transfer\.num_head"):
        check_model(
            ToVECrossAttention,
            {"encoder": {}, "experts": {}, "language": {}, "transfer": {"num_head": 2}},
            "model",
        )
