"""The composition: what one batch becomes, in every method, and what a checkpoint holds of it."""

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from safetensors.torch import save_file

from tove.errors import CheckpointError, ConfigError
from tove.evaluation.profile.parameters import count_parameters
from tove.methods.tove.gate import GateOutput
from tove.methods.tove.model import Fused
from tove.registry import MODELS


def test_loss_trains_only_what_is_meant_to(make_model, batch):
    model = make_model()
    losses = model(**batch, mode="loss")
    assert set(losses) == {"loss_lm", "loss_balance"}
    sum(losses.values()).backward()
    roots = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert roots == {"projector", "gate", "transfer", "language"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_all_detached_is_plain_clip_bit_for_bit(make_model, batch):
    model = make_model().eval()
    with_experts = model.fuse(batch["images"])
    for slot in model.slots:
        model.hub.detach(slot)
    alone = model.fuse(batch["images"])
    v = model.projector.project_clip(model.encoder(batch["images"].float() / 255))
    assert torch.equal(alone.t_fuse, v)
    assert torch.equal(alone.gates.weights, torch.zeros_like(alone.gates.weights))
    assert not torch.equal(with_experts.t_fuse, v)
    assert torch.equal(make_model(kind="PlainCLIP").eval().fuse(batch["images"]).t_fuse, v)


@pytest.mark.parametrize("kind", ["ToVE", "MatchedBaseline"])
def test_zero_init_starts_as_plain_clip(make_model, batch, kind):
    fused = make_model(kind=kind, transfer={"zero_init": True}).fuse(batch["images"])
    assert torch.equal(fused.t_fuse, fused.v)


def test_baseline_matches_parameters_and_builds_no_expert(make_model, expert_types, monkeypatch):
    tove, _ = count_parameters(make_model(gate={"hidden": 8}))
    for kind in expert_types.values():
        monkeypatch.setattr(kind, "__init__", None)
    baseline = make_model(kind="MatchedBaseline", gate={"hidden": 8})
    assert not baseline.hub.experts
    one_hidden_unit = baseline.encoder.width + baseline.language.width + 1
    assert abs(count_parameters(baseline)[0] - tove) <= one_hidden_unit / 2


def test_detached_expert_never_runs_and_never_exists(make_model, experts, batch):
    experts["missing"] = {"type": "no_such_expert_anywhere"}
    model = make_model(detached=["missing"])
    model.hub.detach("fine")
    fused = model.eval().fuse(batch["images"])
    assert fused.slots == ("coarse", "fine", "missing")
    assert model.hub.forward_counts == {"coarse": 1}
    assert torch.equal(fused.gates.weights[..., 1:], torch.zeros(3, 16, 2))
    torch.testing.assert_close(fused.gates.weights[..., 0], torch.ones(3, 16))
    assert not any("missing" in name for name, _ in model.named_parameters())


def test_slim_model_gives_what_the_full_one_gives_detached(make_model, experts, batch):
    full = make_model(seed=1).eval()
    full.hub.detach("fine")
    # The package of a detached expert is gone, and so is its name.
    experts["fine"] = {"type": "no_such_expert_anywhere"}
    slim = make_model(seed=2, detached=["fine"]).eval()
    slim.hub.experts["coarse"].load_state_dict(full.hub.experts["coarse"].state_dict())
    slim.language.body = full.language.body
    slim.load_trainable(full.slim_state_dict())
    assert set(slim.state_dict()) == set(full.slim_state_dict())
    assert torch.equal(slim.fuse(batch["images"]).t_fuse, full.fuse(batch["images"]).t_fuse)


def test_settings_without_a_slot_that_is_detached_already_name_no_other():
    settings = {"experts": {"coarse": {"type": "x"}, "fine": {"type": "y"}}, "detached": ["fine"]}
    rest = MODELS.get("ToVE").with_slots(settings, ["coarse"])
    assert set(rest["experts"]) == {"coarse"}
    assert not set(rest["detached"]) - set(rest["experts"])


def test_expert_dropout_drops_whole_batches_and_skips_the_dropped(make_model, batch):
    model = make_model(expert_dropout=0.5)
    torch.manual_seed(0)
    seen = set()
    for _ in range(32):
        before = dict(model.hub.forward_counts)
        absent = model.fuse(batch["images"]).absent
        seen.add(absent)
        ran = {s for s, n in model.hub.forward_counts.items() if n > before.get(s, 0)}
        assert ran == set(model.slots) - absent
    assert len(seen) == 4


def test_no_expert_is_dropped_in_evaluation(make_model, batch):
    model = make_model(expert_dropout=1.0).eval()
    assert [model.fuse(batch["images"]).absent for _ in range(4)] == [frozenset()] * 4
    assert model.train().fuse(batch["images"]).absent != frozenset()


def test_only_a_step_that_may_leave_experts_out_leaves_parameters_unused(make_model):
    assert not make_model(expert_dropout=0.0).leaves_unused
    assert make_model(expert_dropout=0.5).leaves_unused
    model = make_model(expert_dropout=0.0)
    for slot in model.slots:
        model.hub.detach(slot)
    assert model.leaves_unused


def test_gate_weights_are_those_of_fuse_and_run_no_expert(make_model, batch):
    model = make_model().eval()
    expected = model.fuse(batch["images"]).gates.weights
    before = dict(model.hub.forward_counts)
    assert torch.equal(model.gate_weights(batch["images"]), expected)
    assert dict(model.hub.forward_counts) == before


def test_gate_weights_are_those_of_fuse_after_a_removal_too(make_model, batch):
    model = make_model().eval()
    model.hub.detach("coarse")
    expected = model.fuse(batch["images"]).gates.weights
    assert torch.equal(model.gate_weights(batch["images"]), expected)
    assert (expected[..., 0] == 0).all()


@pytest.mark.parametrize("gone", [(), ("a",)])
def test_a_gate_that_sees_the_experts_decides_alike_when_it_is_asked_alone(
    make_model, expert_types, batch, gone
):
    slots = {name: {"type": expert_types["coarse"]} for name in "abc"}
    model = make_model(experts=slots, gate={"sees": "experts"}).eval()
    for slot in gone:
        model.hub.detach(slot)
    expected = model.fuse(batch["images"]).gates.weights
    assert torch.equal(model.gate_weights(batch["images"]), expected)
    with torch.no_grad():
        for head in model.gate.own_heads.values():
            head.weight.zero_()
    assert not torch.allclose(model.gate_weights(batch["images"]), expected)


def test_a_gate_that_sees_the_experts_learns_by_every_loss_and_goes_with_its_slots(
    make_model, batch
):
    model = make_model(gate={"sees": "experts"}).train()
    sum(model(**batch, mode="loss").values()).backward()
    own = {n: p for n, p in model.named_parameters() if ".own_heads." in n}
    assert len(own) == len(model.slots)
    assert all(p.grad.abs().sum() > 0 for p in own.values())
    model.hub.detach("coarse")
    state = model.slim_state_dict()
    assert [n for n in state if ".own_heads." in n] == ["gate.own_heads.fine.weight"]
    slim = make_model(gate={"sees": "experts"}, detached=["coarse"], seed=1)
    slim.load_trainable(state)
    assert torch.equal(slim.gate.own_heads["fine"].weight, own["gate.own_heads.fine.weight"])


def test_the_balance_loss_is_that_of_the_experts_that_ran(make_model, expert_types, batch):
    """Two experts of three ran, on all tokens alike weighted 3/4 and 1/4: CV^2 is 1/4."""
    slots = {name: {"type": expert_types["coarse"]} for name in "abc"}
    model = make_model(experts=slots, balance_weight=0.5)
    weights = torch.tensor([0.75, 0.0, 0.25]).expand(3, 16, 3)
    t_fuse = torch.rand(3, 16, model.language.width)
    fused = Fused(t_fuse, t_fuse, GateOutput(weights), model.slots, frozenset("b"))
    losses = model.losses(fused, batch["data_samples"])
    assert losses["loss_balance"].item() == pytest.approx(0.5 * 0.25)


def test_models_that_share_a_cache_keep_the_tokens_of_their_own_experts(
    make_model, expert_types, batch
):
    """As the stages of a run do: a slot may hold the same expert with another option."""
    first = make_model(token_cache={"max_gb": 1e-3}).eval()
    scaled = {
        "coarse": {"type": expert_types["coarse"], "scale": 3.0},
        "fine": first.hub._cfgs["fine"],
    }
    second, alone = make_model(experts=scaled).eval(), make_model(experts=scaled).eval()
    second.cache = first.cache
    ids = [sample["image_id"] for sample in batch["data_samples"]]
    first.fuse(batch["images"], ids)
    found = second.fuse(batch["images"], ids).t_fuse
    torch.testing.assert_close(found, alone.fuse(batch["images"]).t_fuse)
    assert second.hub.forward_counts == {"coarse": 1}  # the other slot's tokens are shared


def test_a_view_of_another_size_is_not_taken_from_the_cache(make_model, batch):
    cached, plain = make_model(token_cache={"max_gb": 1e-3}).eval(), make_model().eval()
    ids = [sample["image_id"] for sample in batch["data_samples"]]
    cached.fuse(batch["images"], ids)
    cropped = batch["images"][..., 4:-4, 4:-4]
    torch.testing.assert_close(cached.fuse(cropped, ids).t_fuse, plain.fuse(cropped).t_fuse)


def test_expert_dropout_is_drawn_from_the_seeded_cpu_generator(make_model, batch):
    draws = []
    for _ in range(2):
        model = make_model(expert_dropout=0.5)
        torch.manual_seed(7)
        draws.append([model.fuse(batch["images"]).absent for _ in range(8)])
    assert draws[0] == draws[1]


def test_predict_answers_each_task(make_model, batch):
    model = make_model().eval()
    answers = model(**batch, mode="predict")
    assert [type(a["prediction"]) for a in answers] == [int, str, int]
    assert answers[1]["prediction"] == "p1 thing"
    assert len(answers[0]["scores"]) == 2
    assert "prediction" not in batch["data_samples"][0]
    reversed_batch = {
        "images": batch["images"].flip(0),
        "data_samples": batch["data_samples"][::-1],
    }
    again = model(**reversed_batch, mode="predict")[::-1]
    assert [a["prediction"] for a in again] == [a["prediction"] for a in answers]


@pytest.mark.parametrize("get", [get_state_dict, lambda model: model.state_dict()])
def test_checkpoints_hold_only_what_trains(make_model, get):
    model = make_model()
    own = {name for name, p in model.named_parameters() if p.requires_grad}
    own |= {f"hub.experts.{s}.norm.{n}" for s in ("coarse", "fine") for n in ("scale", "shift")}
    assert set(get(model)) == own
    model.requires_grad_(False)  # a teacher keeps what it learned
    assert set(get(model)) == own
    assert {name.split(".")[0] for name in get(torch.nn.ModuleDict({"m": model}))} == {"m"}


def test_state_round_trips_through_torch_and_mmengine(make_model, caplog):
    source, target, other = make_model(seed=1), make_model(seed=2), make_model(seed=3)
    target.load_state_dict(source.state_dict(), strict=True)
    load_state_dict(other, get_state_dict(source), strict=True)
    for model in (target, other):
        for name, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)
    incomplete = source.state_dict()
    del incomplete["transfer.scale"]
    with pytest.raises(RuntimeError, match=r"transfer\.scale"):
        target.load_state_dict(incomplete, strict=True)


def test_load_trainable_names_what_does_not_fit(make_model):
    model = make_model()
    state = model.state_dict()
    del state["transfer.scale"]
    state["transfer.surprise"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        model.load_trainable(state)
    assert "transfer.scale" in str(error.value)
    assert "transfer.surprise" in str(error.value)
    with pytest.raises(CheckpointError, match="another shape"):
        model.load_trainable(make_model(projector={"hidden": 17}).state_dict())


def test_load_trainable_lets_experts_come_and_go(make_model, experts):
    both = make_model(seed=1)
    one = make_model(seed=2, experts={"coarse": experts["coarse"]})
    one.load_trainable(both.state_dict())
    name = "projector.first.coarse.weight"
    assert torch.equal(one.state_dict()[name], both.state_dict()[name])
    fresh = make_model(seed=3)
    new = fresh.state_dict()["gate.heads.fine.weight"].clone()
    fresh.load_trainable(one.state_dict())
    assert torch.equal(fresh.state_dict()["gate.heads.fine.weight"], new)
    assert torch.equal(fresh.state_dict()[name], both.state_dict()[name])


def test_init_from_takes_a_part(make_model, tmp_path):
    source = make_model(seed=1).state_dict()
    part = {n: source[n] for n in ("projector.first.clip.weight", "language.head.weight")}
    save_file(part, tmp_path / "init.safetensors")
    for kind in ("ToVE", "MatchedBaseline", "PlainCLIP"):
        model = make_model(seed=2, kind=kind, init_from=str(tmp_path / "init.safetensors"))
        assert all(torch.equal(model.state_dict()[name], value) for name, value in part.items())
    with pytest.raises(ConfigError, match=r"init_from.*no file"):
        make_model(init_from=str(tmp_path / "nowhere.safetensors"))
    save_file({**part, "surprise": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit this model: 'surprise' do not train"):
        make_model(init_from=str(tmp_path / "foreign.safetensors"))
    with pytest.raises(ConfigError, match=r"projector\.first\.clip\.weight"):
        make_model(init_from=str(tmp_path / "init.safetensors"), projector={"hidden": 12})


def test_token_cache_changes_nothing_and_saves_the_frozen_work(make_model, batch):
    plain, cached = make_model().eval(), make_model(token_cache={"max_gb": 1e-3}).eval()
    ids = [sample["image_id"] for sample in batch["data_samples"]]
    expected = plain.fuse(batch["images"]).t_fuse
    for _ in range(3):
        torch.testing.assert_close(cached.fuse(batch["images"], ids).t_fuse, expected)
    assert cached.hub.forward_counts == {"coarse": 1, "fine": 1}


def test_init_weights_leaves_everything_alone(make_model):
    model = make_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.init_weights()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_frozen_parts_stay_in_eval(make_model):
    model = make_model().train()
    assert model.gate.training
    assert not any(
        m.training for part in (model.encoder, model.hub.experts.coarse) for m in part.modules()
    )


@pytest.mark.parametrize("kind", ["ToVE", "MatchedBaseline", "PlainCLIP"])
def test_runs_in_bfloat16_and_on_meta(make_model, batch, kind):
    model = make_model(kind=kind)
    assert model.bfloat16().fuse(batch["images"]).t_fuse.dtype == torch.bfloat16
    # Meta tensors hold no numbers: any read of a value in the path would raise.
    fused = make_model(kind=kind, expert_dropout=0.3).to("meta").fuse(batch["images"].to("meta"))
    assert fused.t_fuse.shape == (3, 16, 20)


def test_bad_switches_are_sentences(make_model, clip_folder):
    with pytest.raises(ConfigError, match="no expert slot 'dept'"):
        make_model(detached=["dept"])
    with pytest.raises(ConfigError, match="does not divide"):
        make_model(
            encoder={"type": "TransformersCLIP", "pretrained": clip_folder, "image_size": 30}
        )


def test_builds_from_config_by_name(clip_folder, experts, fake_language):
    cfg = {
        "type": "ToVE",
        "encoder": {"type": "TransformersCLIP", "pretrained": clip_folder},
        "experts": experts,
        "language": fake_language(),
        "_scope_": "tove",
    }
    assert count_parameters(MODELS.build(cfg))[0] > 0


def test_two_views_of_an_image_are_kept_apart(make_model, batch):
    cached, plain = make_model(token_cache=dict(max_gb=0.1)), make_model()
    images = batch["images"]
    for view, seen in (("crop", images), ("pad", images.flip(-1)), ("crop", images)):
        samples = [dict(image_id=str(i), view=view) for i in range(len(images))]
        assert torch.equal(cached(seen, samples), plain(seen, samples))


def test_an_answer_without_a_likelihood_is_an_error(make_model, batch, monkeypatch):
    model = make_model()
    samples = [
        dict(sample, task="statement", candidates=["no", "yes"]) for sample in batch["data_samples"]
    ]
    nothing = [[float("nan"), float("nan")] for _ in samples]
    monkeypatch.setattr(model.language, "rank", lambda *_: nothing, raising=False)
    with pytest.raises(ConfigError, match="no likelihood"):
        model(batch["images"], samples, mode="predict")
