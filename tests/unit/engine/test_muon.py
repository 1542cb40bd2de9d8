"""MuonAdamW steps as torch's two optimisers do, on the weights that each is for."""

import copy

import pytest
import torch
from mmengine.optim import MultiStepLR, OptimWrapper
from torch import nn
from torch.optim import AdamW, Muon
from transformers import LlamaConfig, LlamaForCausalLM

from tove.engine.muon import split_for_muon
from tove.engine.optimizer import Schedule, TrainableOnlyConstructor, optim_wrapper_cfg


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 2, stride=2)
        self.places = nn.Parameter(torch.randn(4, 6))
        self.norm = nn.LayerNorm(6)
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.second(self.first(self.norm(tokens)).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def train(net, optimisers, steps, start=0):
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        loss = net(torch.randn(2, 3, 4, 4, generator=generator)).square().mean()
        for optimiser in optimisers:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def built(net, **schedule):
    schedule = Schedule(steps=1, lr=1e-2, optimizer="MuonAdamW", **schedule)
    cfg = optim_wrapper_cfg(schedule)
    cfg.pop("constructor")
    return TrainableOnlyConstructor(cfg)(net).optimizer


def test_it_steps_as_torchs_muon_and_adamw_on_their_own_parts(net):
    other = copy.deepcopy(net)
    matrices = [other.first.weight, other.second.weight]
    vectors = [p for p in other.parameters() if p.ndim == 1]
    rest = [other.patches.weight, other.places]
    muon = Muon(matrices, lr=1e-2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": rest}, {"params": vectors, "weight_decay": 0.0}]
    adamw = AdamW(groups, lr=1e-2, weight_decay=0.05, fused=True)
    ours, theirs = train(net, [built(net)], 4), train(other, [muon, adamw], 4)
    for one, two in zip(ours, theirs, strict=True):
        assert torch.equal(one, two)


def test_a_schedule_of_both_halves_is_one_schedule(net):
    optimiser = built(net)
    wrapper = OptimWrapper(optimiser)
    rate = MultiStepLR(wrapper, milestones=[1], gamma=0.0, by_epoch=False)
    train(net, [optimiser], 1)
    rate.step()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for old, new in zip(before, train(net, [optimiser], 1, start=1), strict=True):
        assert torch.equal(old, new)  # neither half has a rate of its own left


def test_what_is_loaded_goes_on_as_what_was_never_saved(net):
    other = copy.deepcopy(net)
    through = train(other, [built(other)], 6)
    first = built(net)
    train(net, [first], 3)
    again = Net()
    again.load_state_dict(net.state_dict())
    second = built(again)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for one, other in zip(through, train(again, [second], 3, start=3), strict=True):
        assert torch.equal(one, other)


def test_a_chat_models_words_are_adamws():
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    groups = split_for_muon([{"params": list(model.parameters()), "weight_decay": 0.1}], model)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    by_kind = {g["muon"]: [named[id(p)] for p in g["params"]] for g in groups}
    assert all("proj" in name for name in by_kind[True])
    assert len(by_kind[True]) == 7
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(by_kind[False])
    assert {group["weight_decay"] for group in groups} == {0.1}


def test_a_model_without_linear_layers_is_adamws():
    net = nn.Conv2d(3, 4, 1)
    assert [group["muon"] for group in built(net).param_groups] == [False, False]
