"""MoVE-KD as a method: what trains, what the losses are, what is left without the teachers."""

import pytest
import torch

from tove.errors import ConfigError
from tove.methods.move_kd import MoLE, class_attention, token_errors, token_weights
from tove.methods.tove.merging import Merge
from tove.registry import MODELS

MOLE = {"num_experts": 2, "rank": 4, "dropout": 0.0}


@pytest.fixture
def make_student(make_model):
    def make(**options):
        return make_model(kind="MoVEKD", **{"mole": MOLE, **options})

    return make


def test_every_teacher_teaches_and_all_that_trains_gets_a_gradient(make_student, batch):
    model = make_student(preset="fixed", student="full").train()
    losses = model(**batch, mode="loss")
    assert {"loss_lm", "loss_kd", "loss_balance"} < losses.keys()
    assert {"variance/student", "variance/coarse", "variance/fine"} < losses.keys()
    sum(value for name, value in losses.items() if "loss" in name).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    # fixed starts with B = 0, which hides A for one step.
    hidden = {n for n in trained if ".weight_A" in n or ".bias_A" in n or "_A" in n}
    lacking = {n for n in trained if model.get_parameter(n).grad is None}
    assert lacking <= hidden
    assert {n.split(".")[0] for n in trained} == {"encoder", "projector", "adapters", "language"}
    assert model.hub.forward_counts == {"coarse": 1, "fine": 1}


def test_without_other_teachers_the_loss_is_clip_s_by_its_equation(make_student, batch):
    model = make_student(experts={}, switches={"balance_weight": 0.0}).train()
    with torch.no_grad():
        for layer in model.encoder.modules():
            if isinstance(layer, MoLE):
                layer.router.bias[0] += 9.0  # away from ties
        losses = model(**batch, mode="loss")
        images = batch["images"].float() / 255
        *_, before, after = model.clip.hidden_states(images)
        attention = class_attention([b for _, b in model.clip.blocks()][-1], before)
        errors_BN = token_errors(model.encoder(images), after[:, 1:])
        weights_BN = token_weights(attention)
        expected = (errors_BN.mean(1) + (weights_BN * errors_BN).sum(1)).mean()
    torch.testing.assert_close(losses["loss_kd"], 0.5 * expected)


def test_no_teacher_runs_when_it_answers_and_none_is_needed_to_load_it(make_student, batch):
    model = make_student().eval()
    model(**batch, mode="predict")
    assert not model.hub.forward_counts
    assert model.running() == ()
    assert model.cost_parts(torch.rand(1, 3, 40, 40)).keys() == {"encoder", "fusion", "language"}
    assert set(model.provenance()) == {"coarse", "fine"}  # the manifest of its checkpoint
    kind = MODELS.get("MoVEKD")
    assert kind.teachers_only
    alone = make_student(seed=1, experts={}).eval()
    alone.load_trainable(model.state_dict())
    assert torch.equal(alone(batch["images"]), model(batch["images"]))


def test_a_student_with_mole_is_merged_and_one_without_is_plain_clip(make_student, make_model):
    images = torch.rand(2, 3, 32, 32)
    with_mole = make_student()
    merge = Merge(with_mole)
    assert not any(isinstance(module, MoLE) for module in merge.student.modules())
    torch.testing.assert_close(merge(images), with_mole.plain_tokens(with_mole.clip(images)))

    tuned = make_student(mole=None, student="full")
    assert tuned.frozen == make_model(kind="PlainCLIP", language=tuned.language).frozen
    with torch.no_grad():
        for _, parameter in tuned.encoder.used_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    plain = make_model(kind="PlainCLIP", language=tuned.language)
    plain.load_trainable(tuned.deployed())
    torch.testing.assert_close(plain.eval()(images), tuned.eval()(images))


@pytest.mark.parametrize("adapter", ["channel_token", "resample", "student_head"])
@pytest.mark.parametrize("token_norm", ["none", "standardise"])
def test_every_adapter_trains_with_every_normalisation(make_student, batch, adapter, token_norm):
    switches = {"adapter": adapter, "teacher_weight": "uniform"}
    model = make_student(switches=switches, token_norm=token_norm).train()
    slots = list(model.hub.fitted_norms())
    model.hub.fit_norms(slots, [model.expert_tokens(slots, batch["images"], None)])
    losses = model(**batch, mode="loss")
    assert torch.isfinite(losses["loss_kd"])
    losses["loss_kd"].backward()
    grads = [parameter.grad for parameter in model.adapters.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_a_student_that_could_not_learn_is_a_sentence(make_student):
    with pytest.raises(ConfigError, match="neither MoLE nor weights of its own"):
        make_student(mole=None)
    with pytest.raises(ConfigError, match=r"model\.preset is 'papers'"):
        make_student(preset="papers")
