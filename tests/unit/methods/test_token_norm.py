"""The scale of experts' tokens in a model: what is read, kept in the cache, saved and loaded."""

import pytest
import torch

from tove.engine.expert_swap import carried_state, carry_over
from tove.engine.provenance import check_provenance
from tove.errors import CheckpointError

METHODS = ["ToVE", "UniformAverage", "ConcatChannels", "ConcatTokens", "MoVEKD"]
MORE = {"MoVEKD": {"mole": {"num_experts": 2, "rank": 4}, "student": "full"}}


@pytest.fixture
def fit(batch):
    def fit(model):
        slots = list(model.hub.fitted_norms())
        model.hub.fit_norms(slots, [model.expert_tokens(slots, batch["images"], None)])
        return model

    return fit


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_reads_normalised_tokens(make_model, fit, batch, monkeypatch, kind):
    model = fit(make_model(kind=kind, token_norm="standardise", **MORE.get(kind, {}))).train()
    read = {}
    frozen_tokens = model.frozen_tokens

    def listen(slot, *arguments):
        read[slot] = frozen_tokens(slot, *arguments)
        return read[slot]

    monkeypatch.setattr(model, "frozen_tokens", listen)
    model(**batch, mode="loss")
    assert read.keys() == {"coarse", "fine"}
    for tokens_BMD in read.values():
        flat_TD = tokens_BMD.flatten(0, 1)
        assert flat_TD.mean(0).abs().max() < 1e-4
        torch.testing.assert_close(
            flat_TD.std(0, correction=0), torch.ones(flat_TD.shape[1]), rtol=1e-3, atol=1e-3
        )


def test_an_expert_s_own_setting_goes_first(make_model, fit, experts, batch):
    experts["fine"]["token_norm"] = "none"
    model = fit(make_model(token_norm="standardise"))
    images = batch["images"] / 255
    assert torch.equal(model.frozen_tokens("fine", images), model.hub.run("fine", images))
    assert not torch.equal(model.frozen_tokens("coarse", images), model.hub.run("coarse", images))
    told = {slot: entry["token_norm"] for slot, entry in model.provenance().items()}
    assert told == {"coarse": "standardise", "fine": "none"}


def test_models_that_share_a_cache_have_their_own_statistics(make_model, fit, batch):
    first = fit(make_model(token_norm="standardise", token_cache={"max_gb": 0.1}))
    plain = make_model(token_norm="none")
    plain.cache = first.cache
    first.hub.forward_counts.clear()  # of the fit
    ids, images = ["a", "b", "c"], batch["images"] / 255
    once, again = (first.frozen_tokens("fine", images, ids) for _ in range(2))
    assert torch.equal(once, again)
    assert first.hub.forward_counts == {"fine": 1}
    assert torch.equal(plain.frozen_tokens("fine", images, ids), plain.hub.run("fine", images))


def test_statistics_go_with_the_model(make_model, fit, batch):
    trained = fit(make_model(token_norm="standardise")).eval()
    state = trained.state_dict()
    names = {f"hub.experts.{s}.norm.{n}" for s in ("coarse", "fine") for n in ("scale", "shift")}
    assert names <= state.keys()
    loaded = make_model(seed=1, token_norm="standardise").eval()
    loaded.load_trainable(state)
    for slot in ("coarse", "fine"):
        loaded.hub.experts[slot].expert.load_state_dict(
            trained.hub.experts[slot].expert.state_dict()
        )
    loaded.language.body = trained.language.body
    assert torch.equal(loaded(batch["images"]), trained(batch["images"]))
    trained.hub.detach("fine")
    assert not any(".fine." in name for name in trained.slim_state_dict())


def test_a_model_of_before_reads_tokens_as_it_was_trained_with(make_model, batch):
    then = make_model(token_norm="none").eval()
    now = make_model(seed=0, token_norm="standardise").eval()
    now.load_trainable(then.state_dict())
    assert torch.equal(now(batch["images"]), then(batch["images"]))
    saved = then.provenance()
    for entry in saved.values():
        del entry["token_norm"]
    assert check_provenance(saved, now.provenance(), "it") == []


def test_other_normalisation_is_another_expert(make_model, fit):
    trained = fit(make_model(token_norm="standardise"))
    saved, now = trained.provenance(), make_model(token_norm="layer_norm")
    with pytest.raises(
        CheckpointError, match=r"Set model\.experts\.coarse\.token_norm=standardise"
    ):
        check_provenance(saved, now.provenance(), "it")
    checkpoint = {"meta": {"experts": saved}, "state_dict": trained.state_dict()}
    carry = carry_over(checkpoint, now.provenance())
    assert set(carry.replaced) == {"coarse", "fine"}
    assert not any("norm" in n for n in carried_state(trained.state_dict(), carry, now.slot_parts))
    for entry in saved.values():  # of before there was any
        del entry["token_norm"]
    with pytest.raises(CheckpointError, match="token_norm=none"):
        check_provenance(saved, now.provenance(), "it")


def test_it_costs_nothing_but_is_counted(make_model, fit, batch):
    model, plain = fit(make_model(token_norm="standardise")), make_model()
    image = batch["images"][:1] / 255
    assert model.cost_parts(image).keys() == plain.cost_parts(image).keys()
    found = model.cost_parts(image)["experts.fine"].step()
    assert torch.equal(found, model.frozen_tokens("fine", image))
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, plain)]
    assert counts[0] == counts[1]
