"""The variants: each its own method, by value what its equation says."""

import pytest
import torch
from torch.nn import functional as F

from tove.errors import ConfigError
from tove.evaluation.profile.model import measure_cost
from tove.registry import MODELS

VARIANTS = ["SingleExpert", "UniformAverage", "ConcatChannels", "ConcatTokens", "PrismerResampler"]
OPTIONS = {
    "SingleExpert": {"expert": "fine"},
    "PrismerResampler": {"resampler": {"num_queries": 5, "num_heads": 2}},
}
NUM_TOKENS = {"ConcatTokens": 3 * 16, "PrismerResampler": 16 + 5}


@pytest.fixture
def make_variant(make_model):
    def make(kind, **options):
        return make_model(kind=kind, **{**OPTIONS.get(kind, {}), **options})

    return make


def parts_of(model, images):
    """Return CLIP's tokens, v, and each expert's projection and hidden tokens by slot."""
    t_clip = model.encoder(images)
    tokens = model.hub(images)
    hidden = {slot: model.projector.hidden_tokens(slot, t) for slot, t in tokens.items()}
    projected = {slot: model.projector.shared(h) for slot, h in hidden.items()}
    return t_clip, model.projector.project_clip(t_clip), projected, hidden


def transferred(model, v, z):
    return v + model.transfer.outer(F.gelu(model.transfer.inner(z)))


def test_each_computes_its_equation(make_variant):
    images = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        for kind in VARIANTS:
            model = make_variant(kind).eval()
            _, v, projected, hidden = parts_of(model, images)
            if kind == "SingleExpert":
                expected = transferred(model, v, projected["fine"])
            elif kind == "UniformAverage":
                expected = transferred(model, v, sum(projected.values()) / 2)
            elif kind == "ConcatChannels":
                expected = transferred(model, v, torch.cat(list(hidden.values()), -1))
            elif kind == "ConcatTokens":
                expected = torch.cat([v, *projected.values()], 1)
            else:
                seen = torch.cat([p + model.kinds[slot] for slot, p in projected.items()], 1)
                expected = torch.cat([v, model.resampler(seen)], 1)
            torch.testing.assert_close(model.fuse(images).t_fuse, expected)


@pytest.mark.parametrize("kind", VARIANTS)
def test_each_trains_all_that_it_trains_and_checkpoints_hold_no_more(make_variant, batch, kind):
    model = make_variant(kind)
    losses = model(**batch, mode="loss")
    assert set(losses) == {"loss_lm"}
    losses["loss_lm"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(model.get_parameter(name).grad is not None for name in trained)
    fitted = {n for n in model.state_dict() if ".norm." in n and n.startswith("hub.experts.")}
    assert set(model.state_dict()) - fitted == trained
    again = make_variant(kind, seed=1)
    again.load_trainable(model.state_dict())
    images = torch.rand(2, 3, 40, 40)
    for slot, expert in model.hub.experts.items():
        again.hub.experts[slot].load_state_dict(expert.state_dict())
    torch.testing.assert_close(again.eval()(images), model.eval()(images))


@pytest.mark.parametrize("kind", VARIANTS)
def test_who_reads_more_tokens_says_so_in_the_cost(make_variant, kind):
    row = measure_cost(make_variant(kind), 40, torch.device("cpu"))
    assert row["vision_tokens"] == NUM_TOKENS.get(kind, 16)
    assert row["flops"] > 0
    used = {"fine"} if kind == "SingleExpert" else {"coarse", "fine"}
    assert row["cost"]["experts"].keys() == used


@pytest.mark.parametrize("kind", VARIANTS)
def test_each_runs_in_bfloat16_and_on_meta(make_variant, batch, kind):
    t_fuse = make_variant(kind).bfloat16().fuse(batch["images"]).t_fuse
    assert t_fuse.dtype == torch.bfloat16
    fused = make_variant(kind).to("meta").fuse(batch["images"].to("meta"))
    assert fused.t_fuse.shape == (3, NUM_TOKENS.get(kind, 16), 20)


def test_a_single_expert_builds_no_other(make_variant, experts):
    experts["missing"] = {"type": "no_such_expert_anywhere"}
    model = make_variant("SingleExpert", experts=experts)
    assert list(model.hub.experts) == ["fine"]
    with pytest.raises(ConfigError, match=r"'fin', which .* mean 'fine'"):
        make_variant("SingleExpert", expert="fin")


def test_all_experts_away_leaves_plain_clip(make_variant):
    images = torch.rand(2, 3, 40, 40)
    for kind in ("UniformAverage", "PrismerResampler"):
        assert MODELS.get(kind).detachable
        model = make_variant(kind).eval()
        for slot in model.slots:
            model.hub.detach(slot)
        v = model.projector.project_clip(model.encoder(images))
        assert torch.equal(model.fuse(images).t_fuse, v)


def test_concatenated_channels_take_the_transfer_s_options_or_none(make_variant):
    assert make_variant("ConcatChannels", transfer={"scale": 0.5}).transfer.scale == 0.5
    assert make_variant("ConcatChannels", transfer=None).transfer.scale == 1.0


def test_an_average_drops_experts_in_training_alone_and_where_it_is_asked_to(make_variant):
    def dropped():
        return {frozenset(model.dropped()) for _ in range(40)} - {frozenset()}

    model = make_variant("UniformAverage").train()
    assert not dropped()
    model = make_variant("UniformAverage", expert_dropout=0.5).train()
    assert dropped()
    model.eval()
    assert not dropped()


def test_the_resampler_has_prismer_s_64_queries_unless_told(make_model):
    model = make_model(kind="PrismerResampler", resampler={"num_heads": 2}).eval()
    assert model.fuse(torch.rand(1, 3, 40, 40)).t_fuse.shape[1] == 16 + 64


def test_only_without_its_experts_a_step_leaves_parameters_unused(make_variant, make_model):
    assert not make_model(kind="PlainCLIP").leaves_unused  # it has none to leave out
    for kind in ("UniformAverage", "PrismerResampler"):
        model = make_variant(kind)
        assert not model.leaves_unused
        for slot in model.slots:
            model.hub.detach(slot)
        assert model.leaves_unused


def test_a_single_expert_does_without_the_others_and_not_without_itself(make_variant):
    model = make_variant("SingleExpert", detached=("coarse",))
    assert list(model.provenance()) == ["fine"]
    with pytest.raises(ConfigError, match=r"the slot 'fine', which model\.detached takes away"):
        make_variant("SingleExpert", detached=("fine",))
