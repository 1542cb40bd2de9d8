import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from tove.backbones.language.causal_lm import CausalLanguageModel
from tove.errors import ConfigError
from tove.modules.device import on_device
from tove.registry import LANGUAGE_MODELS

CROSS = ["gpt2", "bert", "roberta"]
ALL_WAYS = [(f, "cross_attention") for f in CROSS] + [
    (f, "prefix") for f in ["gpt2", "opt", "llama", "roberta"]
]
PROMPTS = ["a picture of", "", "the red ball is left of the blue box true ?", "two"]
TARGETS = ["a red ball", "two balls", "yes", "blue balls left"]


class Made(TorchFunctionMode):
    """Counts tensors that are made of Python numbers."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def make(lm_folder):
    def build(family: str, fusion: str, **options) -> CausalLanguageModel:
        model = CausalLanguageModel(str(lm_folder(family)), fusion=fusion, **options)
        torch.manual_seed(1)
        for name, parameter in model.lm.named_parameters():
            if "cross" in name and parameter.dim() > 1:
                parameter.data.normal_(0, 0.5)
        return model

    return build


def asked(prompts, targets=None, candidates=None) -> list[dict]:
    """Samples that ask so."""
    nothing = [None] * len(prompts)
    texts = zip(prompts, targets or nothing, candidates or nothing, strict=True)
    return [{"prompt": p, "target": t, "candidates": c} for p, t, c in texts]


def memory(batch: int = 4, requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 5, 16, generator=generator).requires_grad_(requires_grad)


def log_likelihood(model, memory_1ND, prompt: str, target: str, end: bool) -> torch.Tensor:
    """One sample, one token at a time, no padding: what batches must agree with."""
    ids = list(model.text.prompt(prompt))
    total = torch.zeros(())
    goal = [*model.text.target(prompt, target), *([model.text.eos] if end else [])]
    for token in goal:
        row = torch.tensor([ids])
        logits = model._logits(memory_1ND, row, torch.ones_like(row))[0, -1]
        total = total + logits.log_softmax(-1)[token]
        ids.append(token)
    return total


@pytest.mark.parametrize(("family", "fusion"), ALL_WAYS)
def test_loss_is_the_mean_over_target_tokens_of_the_whole_batch(make, family, fusion) -> None:
    model = make(family, fusion)
    vision = memory()
    with torch.no_grad():
        total = sum(
            log_likelihood(model, vision[i : i + 1], PROMPTS[i], TARGETS[i], end=True)
            for i in range(4)
        )
        loss = model.loss(vision, asked(PROMPTS, TARGETS))
    num_tokens = sum(len(text.split()) + 1 for text in TARGETS)
    torch.testing.assert_close(loss, -total / num_tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "fusion"), ALL_WAYS)
def test_ranking_agrees_with_one_candidate_at_a_time(make, family, fusion) -> None:
    model = make(family, fusion)
    vision = memory()
    candidates = [["a red ball", "yes"], ["no", "two balls", "box"], ["true"], ["left", "right"]]
    scores = model.rank(vision, asked(PROMPTS, candidates=candidates))
    assert [len(row) for row in scores] == [2, 3, 1, 2]
    for i, options in enumerate(candidates):
        for candidate, score in zip(options, scores[i], strict=True):
            with torch.no_grad():
                expected = log_likelihood(model, vision[i : i + 1], PROMPTS[i], candidate, False)
            assert score == pytest.approx(expected.item(), abs=2e-4)


@pytest.mark.parametrize(("family", "fusion"), ALL_WAYS)
def test_one_pass_ranking_equals_the_general_one(make, family, fusion, monkeypatch) -> None:
    model = make(family, fusion)
    vision, passes = memory(), []
    candidates = [["no", "yes"]] * 4
    forward = model._logits
    monkeypatch.setattr(model, "_logits", lambda *args: passes.append(args) or forward(*args))
    fast = model.rank(vision, asked(PROMPTS, candidates=candidates))
    assert len(passes) == 1
    assert passes[0][1].shape[0] == 4
    longer = [["no", "yes", "no yes"]] * 4  # of two tokens: a row of its own
    general = [row[:2] for row in model.rank(vision, asked(PROMPTS, candidates=longer))]
    assert len(passes) > 2
    assert fast == general


@pytest.mark.parametrize(("family", "fusion"), ALL_WAYS)
def test_ranking_reads_prompt_and_image_once_for_all_candidates(
    make, family, fusion, monkeypatch
) -> None:
    model = make(family, fusion)
    vision, rows = memory(), []
    candidates = [["a red ball", "yes", "two balls", "box left"]] * 4
    forward = model._logits
    monkeypatch.setattr(
        model, "_logits", lambda *args: rows.append(args[1].shape) or forward(*args)
    )
    cached = model.rank(vision, asked(PROMPTS, candidates=candidates))
    longest = max(len(model.text.prompt(prompt)) for prompt in PROMPTS)
    assert rows == [(4, longest), (3 * 4, 2)]
    model.lm._is_stateful = True  # as a state-space model is
    uncached = model.rank(vision, asked(PROMPTS, candidates=candidates))
    torch.testing.assert_close(torch.tensor(cached), torch.tensor(uncached), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stateful", [False, True])
def test_candidates_that_begin_alike_share_a_row(make, monkeypatch, stateful) -> None:
    model = make("gpt2", "cross_attention")
    model.lm._is_stateful = stateful
    options = [
        "a red ball",
        "a",
        "two",
        "a red",
        "a red box",
        "two balls",
        "a blue box",
        "a two no",
    ]
    expected = [
        [row[0] for row in model.rank(memory(), asked(PROMPTS, candidates=[[option]] * 4))]
        for option in options
    ]
    rows, forward = [], model._logits
    monkeypatch.setattr(
        model, "_logits", lambda *args: rows.append(args[1].shape) or forward(*args)
    )
    for name, number in (("_LEAST_ROWS", 6), ("_POSITIONS", 0)):  # a sample is split
        monkeypatch.setattr(f"tove.backbones.language.ranking.{name}", number)
    found = model.rank(memory(), asked(PROMPTS, candidates=[options] * 4))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected).T, rtol=1e-4, atol=1e-4)
    shared = 4 * len({"a red", "a blue", "a two", "two"})
    assert [shape[0] for shape in rows] == [4, *[6] * (shared // 6), shared % 6]


@pytest.mark.parametrize("length_normalised", [False, True])
def test_a_long_list_is_ranked_by_a_shortlist_of_likely_first_tokens(
    make, length_normalised
) -> None:
    names = "a picture of the red blue ball box is left right no".split()
    long = [f"{one} {two}" for one in names for two in ("balls", "yes box")] + ["two"]
    options = [long, long[:8], ["yes", "no"], long[::-1]]
    exact = make("gpt2", "cross_attention").rank(
        memory(), asked(PROMPTS, candidates=options), length_normalised
    )
    model = make("gpt2", "cross_attention", rank_shortlist=8)
    scores = model.rank(memory(), asked(PROMPTS, candidates=options), length_normalised)
    assert scores[1:3] == [pytest.approx(row, abs=1e-4) for row in exact[1:3]]
    for i in (0, 3):
        assert len(scores[i]) == len(long)
        first = model.rank(
            memory(), asked(PROMPTS, candidates=[[c.split()[0] for c in row] for row in options])
        )[i]
        likeliest = set(sorted(range(len(long)), key=lambda c: -first[c])[:8])
        for c, (score, candidate) in enumerate(zip(scores[i], options[i], strict=True)):
            if c in likeliest or candidate == "two":
                assert score == pytest.approx(exact[i][c], abs=1e-4)
            else:
                assert score == -float("inf")


def test_candidates_are_encoded_once_for_all_questions(make, monkeypatch) -> None:
    model = make("gpt2", "cross_attention")
    calls, encode = [], model.text.tokenizer.encode
    monkeypatch.setattr(
        model.text.tokenizer, "encode", lambda text, **kw: calls.append(text) or encode(text, **kw)
    )
    candidates = [["yes", "a red ball"], ["a red ball", "no"], ["yes"], ["yes"]]
    prompts = ["the ball ?", "the box ?", "two balls ?", ""]
    model.rank(memory(), asked(prompts, candidates=candidates))
    assert sum("a red ball" in text for text in calls) == 1
    assert sum("yes" in text for text in calls) == 2  # behind a space, and at the very start
    before = len(calls)
    model.rank(memory(), asked(["is the ball red ?"] * 4, candidates=candidates))
    assert calls[before:] == ["is the ball red ?"]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_no_ids_are_read_back_to_warn_of_padding(make, family, monkeypatch) -> None:
    def fail(*args) -> None:
        raise AssertionError("the device is waited for")

    monkeypatch.setattr(PreTrainedModel, "warn_if_padding_and_no_attention_mask", fail)
    model = make(family, "cross_attention")
    assert model.loss(memory(), asked(PROMPTS, ["yes"] * 4)).isfinite()


def test_length_normalised_ranking_divides_by_tokens(make) -> None:
    model = make("gpt2", "cross_attention")
    options = [["a red ball", "yes"]]
    plain = model.rank(memory(1), asked(["the"], candidates=options))[0]
    normalised = model.rank(memory(1), asked(["the"], candidates=options), length_normalised=True)[
        0
    ]
    assert normalised == pytest.approx([plain[0] / 3, plain[1]])


def greedy(model, memory_1ND, prompt: str, num_tokens: int) -> list[int]:
    ids = list(model.text.prompt(prompt))
    start = len(ids)
    for _ in range(num_tokens):
        row = torch.tensor([ids])
        ids.append(model._logits(memory_1ND, row, torch.ones_like(row))[0, -1].argmax().item())
        if ids[-1] == model.text.eos:
            break
    return ids[start:]


@pytest.mark.parametrize(("family", "fusion"), ALL_WAYS)
def test_generation_of_a_mixed_batch_equals_greedy_by_hand(make, family, fusion) -> None:
    model = make(family, fusion)
    vision = memory()
    texts = model.generate(vision, asked(PROMPTS), num_beams=1, min_new_tokens=0, max_new_tokens=6)
    for i, text in enumerate(texts):
        with torch.no_grad():
            ids = greedy(model, vision[i : i + 1], PROMPTS[i], 6)
        assert text == model.text.decode(torch.tensor([ids]))[0]


@pytest.mark.parametrize(("family", "fusion"), ALL_WAYS)
def test_beam_search_of_a_sample_depends_on_that_sample_only(make, family, fusion) -> None:
    model = make(family, fusion)
    vision = memory()
    limits = dict(min_new_tokens=4, max_new_tokens=4)
    together = model.generate(vision, asked(PROMPTS), num_beams=3, **limits)
    alone = [
        model.generate(vision[i : i + 1], asked([PROMPTS[i]]), num_beams=3, **limits)[0]
        for i in range(4)
    ]
    assert together == alone
    assert len(set(together)) > 1


def test_generation_respects_length_limits_and_the_position_table(make) -> None:
    model = make("gpt2", "cross_attention")
    model.lm.lm_head = nn.Linear(16, model.lm.config.vocab_size, bias=True)
    nn.init.zeros_(model.lm.lm_head.weight)
    nn.init.zeros_(model.lm.lm_head.bias)
    model.lm.lm_head.bias.data[model.text.eos] = 9.0
    model.lm.lm_head.bias.data[model.text.target("", "ball")[0]] = 5.0
    texts = model.generate(
        memory(2), asked(["", "a picture of"]), min_new_tokens=3, max_new_tokens=9
    )
    assert texts == ["ball ball ball"] * 2
    model.lm.lm_head.bias.data[model.text.eos] = -9.0
    texts = model.generate(
        memory(1), asked([""]), min_new_tokens=1, max_new_tokens=500, num_beams=2
    )
    assert len(texts[0].split()) == 39


def test_a_prompt_longer_than_the_positions_is_refused_in_a_sentence(make) -> None:
    model = make("gpt2", "prefix")
    with pytest.raises(ConfigError, match="room for 35"):
        model.rank(memory(1), asked(["ball " * 60], candidates=[["yes"]]))
    with pytest.raises(ConfigError, match=r"has 37 tokens, but .* room for 35"):
        model.rank(memory(1), asked(["ball " * 33], candidates=[["yes", "red box yes"]]))
    with pytest.raises(ConfigError, match="room for 34"):
        model.generate(memory(1), asked(["ball " * 60]))
    assert model.loss(memory(1), asked([""], ["ball " * 60])).isfinite()
    with pytest.raises(ConfigError, match="200 vision tokens leave no room for text among the 40"):
        model.loss(torch.zeros(1, 200, 16), asked([""], ["ball"]))


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(
        "tove.backbones.language.tokenization.print_log", lambda text, **_: seen.append(text)
    )
    return seen


@pytest.mark.parametrize("loss_mean", ["tokens", "samples"])
@pytest.mark.parametrize(
    ("prompt", "target", "words"),
    [("a", "\u2028", "'\\u2028' has no token"), ("ball " * 60, "red", "'red' finds no room")],
)
def test_a_target_with_nothing_to_learn_is_left_out_with_one_warning(
    make, warnings, loss_mean, prompt, target, words
) -> None:
    model = make("gpt2", "cross_attention", loss_mean=loss_mean)
    prompts, targets = PROMPTS.copy(), TARGETS.copy()
    prompts[2], targets[2] = prompt, target
    others = [0, 1, 3]
    expected = model.loss(
        memory()[others], asked([prompts[i] for i in others], [targets[i] for i in others])
    )
    for _ in range(2):
        torch.testing.assert_close(model.loss(memory(), asked(prompts, targets)), expected)
    assert len(warnings) == 1
    assert words in warnings[0]
    vision = memory(1, requires_grad=True)
    nothing = model.loss(vision, asked([prompt], [target]))
    nothing.backward()
    assert nothing == 0
    assert not vision.grad.any()


@pytest.mark.parametrize("loss_mean", ["tokens", "samples"])
def test_a_sample_without_a_target_counts_for_nothing(make, warnings, loss_mean) -> None:
    model = make("gpt2", "cross_attention", loss_mean=loss_mean)
    some = [TARGETS[0], None, TARGETS[2], None]
    expected = model.loss(memory()[[0, 2]], asked(PROMPTS[::2], TARGETS[::2]))
    torch.testing.assert_close(model.loss(memory(), asked(PROMPTS, some)), expected)
    assert not warnings


def test_the_loss_makes_no_tensor_on_the_device_but_by_copies_not_waited_for(
    make, monkeypatch
) -> None:
    """A tensor made of Python numbers on a GPU waits for CLIP and the experts, queued before it."""
    model = make("llama", "prefix")
    copies, copy = [], on_device
    monkeypatch.setattr(
        "tove.backbones.language.causal_lm.on_device", lambda *a: copies.append(a) or copy(*a)
    )
    monkeypatch.setattr(
        "tove.backbones.language.tokenization.on_device", lambda *a: copies.append(a) or copy(*a)
    )
    made = Made()
    with made:
        model.loss(memory(), asked(PROMPTS, TARGETS))
    assert len(copies) == made.count == 2  # ids with their mask; starts


def test_training_text_is_cut_at_the_cap_and_answers_are_not(make, warnings, monkeypatch) -> None:
    model = make("gpt2", "cross_attention", max_text_tokens=6)
    uncapped = make("gpt2", "cross_attention")
    widths, forward = [], model._logits
    monkeypatch.setattr(
        model, "_logits", lambda *args: widths.append(args[1].shape[1]) or forward(*args)
    )
    loss = model.loss(memory(2), asked(["a", "a"], ["ball " * 30, "red ball"]))
    assert widths == [6]
    parts = [(0, "ball " * 4, False), (1, "red ball", True)]  # [BOS] a and four tokens; the end
    with torch.no_grad():
        total = sum(
            log_likelihood(uncapped, memory()[i : i + 1], "a", text, end) for i, text, end in parts
        )
    torch.testing.assert_close(loss.detach(), -total / 7, rtol=1e-4, atol=1e-5)
    assert not warnings
    assert model.loss(memory(1), asked(["a red ball is left of"], ["box"])) == 0
    assert "'box' finds no room" in warnings[0]
    long = memory(1), asked(["a red ball is left of the"], candidates=[["box", "blue box"]])
    assert model.rank(*long) == uncapped.rank(*long)


def test_a_candidate_without_a_token_is_refused_in_a_sentence(make) -> None:
    model = make("gpt2", "cross_attention")
    with pytest.raises(ConfigError, match=r"candidate '\\u2028' after the prompt 'the'"):
        model.rank(memory(1), asked(["the"], candidates=[["yes", "\u2028"]]))
    assert isinstance(model.generate(memory(1), asked(["\u2028"]), max_new_tokens=2)[0], str)


@pytest.mark.parametrize(("family", "fusion"), ALL_WAYS)
def test_adapters_start_as_the_identity_then_learn_and_nothing_frozen_moves(
    make, family, fusion
) -> None:
    plain = make(family, fusion)
    model = make(family, fusion, adapters=dict(type="bottleneck", width=4)).train()
    vision = memory(requires_grad=True)
    torch.testing.assert_close(
        model.loss(vision, asked(PROMPTS, TARGETS)), plain.loss(vision, asked(PROMPTS, TARGETS))
    )
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert model.trainable_names() == [n for n, p in model.named_parameters() if p.requires_grad]
    cross = [n for n in model.trainable_names() if n.startswith("lm.")]
    assert bool(cross) == (fusion == "cross_attention")
    assert all("cross" in n for n in cross)
    assert sum(n.startswith("adapters.") for n in model.trainable_names()) == 2 * 4
    optimizer, losses = torch.optim.Adam(trained, lr=0.02), []
    for _ in range(12):
        loss = model.loss(vision, asked(PROMPTS, TARGETS))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    assert vision.grad.abs().sum() > 0
    assert all(a.up.weight.abs().sum() > 0 for a in model.adapters)
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_a_deep_copy_has_its_own_adapters(make) -> None:
    model = make("gpt2", "cross_attention", adapters=dict(type="bottleneck", width=4))
    before = model.loss(memory(), asked(PROMPTS, TARGETS))
    twin = copy.deepcopy(model)
    for adapter in twin.adapters:
        nn.init.normal_(adapter.up.bias)
    assert not torch.allclose(twin.loss(memory(), asked(PROMPTS, TARGETS)), before)
    torch.testing.assert_close(model.loss(memory(), asked(PROMPTS, TARGETS)), before)


def test_the_language_model_never_drops_out(make) -> None:
    model = make("roberta", "cross_attention", adapters=dict(type="bottleneck", width=4)).train()
    assert model.training
    assert not any(module.training for module in model.lm.modules())
    first = model.loss(memory(), asked(PROMPTS, TARGETS))
    assert torch.equal(first, model.loss(memory(), asked(PROMPTS, TARGETS)))


@pytest.mark.parametrize(("family", "fusion"), [("llama", "prefix"), ("gpt2", "cross_attention")])
def test_lora_trains_only_lora_and_cross_attention(make, family, fusion) -> None:
    model = make(family, fusion, adapters=dict(type="lora", r=2))
    names = model.trainable_names()
    assert any("lora_" in name for name in names)
    assert all("lora_" in name or "cross" in name for name in names)
    assert not any("lora_" in name and "cross" in name for name in names)
    model.loss(memory(), asked(PROMPTS, TARGETS)).backward()
    assert model.generate(memory(1), asked(["a"]), max_new_tokens=3)


@pytest.mark.parametrize("variant", [{}, dict(use_dora=True)])
def test_dropout_of_lora_follows_the_mode_and_no_other_dropout_does(make, variant) -> None:
    options = dict(type="lora", r=2, lora_dropout=0.5, init_lora_weights=False, **variant)
    model = make("roberta", "prefix", adapters=options).train()
    active = {name for name, m in model.lm.named_modules() if m.training and not list(m.children())}
    assert any("lora_dropout" in name for name in active)
    assert all("lora_" in name for name in active)
    first = model.loss(memory(), asked(PROMPTS, TARGETS))
    assert not torch.equal(first, model.loss(memory(), asked(PROMPTS, TARGETS)))
    model.eval()
    assert not any(module.training for module in model.modules())
    first = model.loss(memory(), asked(PROMPTS, TARGETS))
    assert torch.equal(first, model.loss(memory(), asked(PROMPTS, TARGETS)))


@pytest.mark.parametrize("options", [dict(type="lora", r=2), dict(type="bottleneck", width=4)])
@pytest.mark.parametrize(("family", "fusion"), [("llama", "prefix"), ("gpt2", "cross_attention")])
def test_adapters_of_a_half_precision_model_train_in_float32(make, family, fusion, options) -> None:
    frozen = dict(dtype="bfloat16", train_cross_attention=False)
    model = make(family, fusion, adapters=options, **frozen).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert {p.dtype for p in trained} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    vision = memory(requires_grad=True)
    model.loss(vision, asked(PROMPTS, TARGETS)).backward()
    assert vision.grad.isfinite().all()
    learned = {p: p.detach().clone() for p in trained if p.grad.abs().sum() > 0}
    assert learned
    torch.optim.Adam(trained, lr=1e-5).step()  # so small a step is lost in bfloat16
    assert all((p - old).abs().max() < 2e-5 for p, old in learned.items())
    assert all((p != old).float().mean() > 0.9 for p, old in learned.items())
    assert model.rank(vision, asked(PROMPTS, candidates=[["yes", "no"]] * 4))
    assert model.generate(vision, asked(PROMPTS), max_new_tokens=2)


def test_lora_that_would_train_half_precision_weights_is_refused(make) -> None:
    options = dict(adapters=dict(type="lora", r=2, bias="all"), dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"would train .*bias in torch\.bfloat16"):
        make("gpt2", "prefix", **options)
    make("gpt2", "prefix", adapters=dict(type="lora", r=2, bias="all"))


def test_frozen_cross_attention_leaves_adapters_alone_to_train(make) -> None:
    options = dict(adapters=dict(type="bottleneck", width=4), train_cross_attention=False)
    model = make("gpt2", "cross_attention", **options)
    assert all(name.startswith("adapters.") for name in model.trainable_names())


def test_label_smoothing_is_that_of_torch_and_skips_prompt_and_padding(make) -> None:
    model = make("gpt2", "cross_attention", label_smoothing=0.2)
    smooth = model.loss(memory(1), asked(["a picture of"], ["a ball"]))
    row = [*model.text.prompt("a picture of"), *model.text.target("a", "a ball"), model.text.eos]
    ids = torch.tensor([row])
    logits = model._logits(memory(1), ids, torch.ones_like(ids))[0, 3:-1]
    torch.testing.assert_close(smooth, F.cross_entropy(logits, ids[0, 4:], label_smoothing=0.2))


def test_loss_normalisation_over_processes(make, monkeypatch) -> None:
    """Unequal numbers of target tokens (2 and 8) still average to the one-process gradient."""
    model = make("gpt2", "cross_attention")
    whole = model.loss(memory(2), asked(["a", "a"], ["yes", "the red ball is left of box"]))
    halves = []
    for i, target in enumerate(["yes", "the red ball is left of box"]):
        own = len(target.split()) + 1
        monkeypatch.setattr("tove.modules.collectives.dist.is_initialized", lambda: True)
        monkeypatch.setattr("tove.modules.collectives.dist.get_world_size", lambda: 2)
        monkeypatch.setattr(
            "tove.modules.collectives.dist.all_reduce", lambda x, n=10 - own: x.add_(n)
        )
        halves.append(model.loss(memory(2)[i : i + 1], asked(["a"], [target])))
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_builds_from_a_config(lm_folder) -> None:
    config = dict(type="CausalLanguageModel", pretrained=str(lm_folder("gpt2")))
    assert LANGUAGE_MODELS.build(config).width == 16


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(adapters=dict(type="houlsby")), ConfigError, "'bottleneck' or 'lora'"),
        (dict(adapters=dict(type="bottleneck", dim=4)), ConfigError, r"adapters\.dim is unknown"),
        (dict(dtype="bfloat16"), ConfigError, "its small steps lost to rounding"),
        (dict(pretrained="./no/such/folder"), ConfigError, "does not exist"),
    ],
)
def test_mistakes_in_the_config_get_a_sentence(lm_folder, options, error, words) -> None:
    with pytest.raises(error, match=words):
        CausalLanguageModel(**{"pretrained": str(lm_folder("gpt2")), **options})


def test_a_model_without_cross_attention_says_what_to_use(lm_folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match="fusion='prefix'"):
        CausalLanguageModel(str(lm_folder("llama")), fusion="cross_attention")
    with pytest.raises(ConfigError, match="could not be loaded"):
        CausalLanguageModel(str(tmp_path))


@pytest.mark.parametrize(("fusion", "room"), [("cross_attention", 40), ("prefix", 35)])
def test_room_and_length_of_texts_are_told(make, fusion, room) -> None:
    model = make("gpt2", fusion)
    assert model.room(5) == room
    (chosen,) = asked(["the red ball ?"], candidates=[["yes", "no", "blue box"]])
    assert model.num_tokens(chosen) == 7
    assert model.num_tokens({"prompt": "the red ball ?"}) == 5


def test_the_share_of_unknown_words_is_told(make) -> None:
    model = make("bert", "cross_attention")
    assert model.unknown_share(["the red ball", "a blue box"]) == 0
    assert model.unknown_share(["the red cat sat", ""]) == 0.5
    assert model.unknown_share([]) == 0
