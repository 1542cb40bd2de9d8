import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from tove.backbones.language.chat import ChatLanguageModel
from tove.backbones.language.chat_tokens import IMAGE_ID, TokenKind, lay_out
from tove.backbones.language.image_projector import ImageProjector
from tove.errors import ConfigError
from tove.registry import LANGUAGE_MODELS

WIDTH = 32


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def sample(num_images, *texts):
    return {"conversations": turns(*texts), "image_paths": [f"{i}.jpg" for i in range(num_images)]}


SAMPLES = [
    sample(1, "<image>\nWhat is this?", "It is a cat."),
    sample(0, "How many people are there?", "There are three people.", "A cat?", "a red mat"),
    sample(2, "Is <image> red or <image>?", "a"),
]
LENGTHS = [4, 7, 2]


@pytest.fixture
def make(chat_folder):
    def build(**options):
        return ChatLanguageModel(str(chat_folder), **options)

    return build


def features(lengths=LENGTHS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, WIDTH, generator=generator).to(dtype) for n in lengths]


def one_by_one(model, images, item, only_answers=False):
    """Log-likelihoods of the counted tokens of one sample, its embeddings put together by hand."""
    row = model.text.sample(item["conversations"], len(images))
    embed = model.lm.get_input_embeddings()
    parts, ids, counts = [], [], []
    left = iter(images)
    for token, kind in zip(row.ids, row.kinds, strict=True):
        part = next(left) if token == IMAGE_ID else embed(torch.tensor([token]))
        parts.append(part)
        ids += [max(token, 0)] * len(part)
        counted = kind == TokenKind.ANSWER or (kind == TokenKind.END and not only_answers)
        counts += [counted] * len(part)
    logits = model.lm(inputs_embeds=torch.cat(parts)[None]).logits[0]
    lines = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]
    return lines[torch.tensor(counts)[1:]]


def split(images):
    return [images[:1], [], images[1:]]


@pytest.mark.parametrize("loss_mean", ["tokens", "samples"])
def test_loss_is_the_mean_over_answer_tokens_of_the_whole_batch(make, loss_mean) -> None:
    model, images = make(loss_mean=loss_mean), features()
    with torch.no_grad():
        lines = [one_by_one(model, *both) for both in zip(split(images), SAMPLES, strict=True)]
        loss = model.loss(images, SAMPLES)
    if loss_mean == "tokens":
        expected = -torch.cat(lines).mean()
    else:
        expected = -torch.stack([line.mean() for line in lines]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_padding_is_never_looked_at_even_where_it_is_the_end_token(make) -> None:
    model, images = make(), features()
    losses = []
    for pad in (model.text.tokenizer.eos_token_id, 0, 77):
        model._pad = pad
        losses.append(model.loss(images, SAMPLES).item())
    assert losses[0] == losses[1] == losses[2]


def test_logits_are_those_of_stock_llava(make) -> None:
    model = make()
    text = model.text
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        text_config=model.lm.config,
        image_token_index=0,  # no text has the unknown token
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    stock = LlavaForConditionalGeneration(config).eval()
    stock.model.language_model.load_state_dict(model.lm.model.state_dict())
    stock.lm_head.load_state_dict(model.lm.lm_head.state_dict())
    projector = ImageProjector(16, WIDTH)
    projector.load_state_dict(stock.model.multi_modal_projector.state_dict())
    pixels = torch.randn(3, 3, 32, 32)
    tower = stock.model.vision_tower
    with torch.no_grad():
        tokens = tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        images = projector(tokens)
        rows = [
            lay_out(text.sample(item["conversations"], n), [16] * n, 999)[0]
            for item, n in zip(SAMPLES, (1, 0, 2), strict=True)
        ]
        embeds, _ = model._embed(rows, images.flatten(0, 1), [16] * 3, range(3))
        ours = model._logits(embeds, range(embeds.shape[1]))
        first = 0
        for row, line, n in zip(rows, ours, (1, 0, 2), strict=True):
            ids = torch.tensor([[config.image_token_id if i == IMAGE_ID else i for i in row.ids]])
            inputs = {"pixel_values": pixels[first : first + n]} if n else {}
            theirs = stock(input_ids=ids, **inputs).logits[0]
            torch.testing.assert_close(line[: len(row.ids)], theirs, rtol=0, atol=1e-5)
            first += n


def test_a_batch_without_images_trains_and_reaches_the_projector(make) -> None:
    model, projector = make(tuning="lora", lora={"r": 2}), ImageProjector(5, WIDTH)
    images = projector(torch.empty(0, 9, 5))
    loss = model.loss(images, [SAMPLES[1]])
    loss.backward()
    assert loss.item() > 0
    assert all((p.grad == 0).all() for p in projector.parameters())


def test_a_long_sample_is_cut_but_never_inside_an_image(make) -> None:
    model, images = make(), features()
    whole = model.num_tokens(SAMPLES[2]) + 9
    before = len(model.text.prompt(SAMPLES[2]["conversations"], 2).ids) - 2 + 9
    assert model.text.sample(SAMPLES[2]["conversations"], 2).ids[-1] == 2
    model.max_tokens = whole - 1  # the end token goes
    only = one_by_one(model, images[1:], SAMPLES[2])
    torch.testing.assert_close(model.loss(images[1:], SAMPLES[2:]), -only[:-1].mean())
    model.max_tokens = before  # nothing left to learn, the images still whole
    assert model.loss(images[1:], SAMPLES[2:]).item() == 0
    assert model._rows(SAMPLES[2:], [7, 2], before)[1] == [0, 1]
    place = model.text.sample(SAMPLES[2]["conversations"], 2).ids.index(IMAGE_ID)
    model.max_tokens = place + 6  # within the first image
    row, kept = model._rows(SAMPLES[2:], [7, 2], model.max_tokens)
    assert (len(row[0].ids), kept) == (place, [])
    other = model.loss([*images[:1], *images[1:]], [SAMPLES[0], SAMPLES[2]])
    torch.testing.assert_close(other, model.loss(images[:1], SAMPLES[:1]))


def test_images_that_leave_no_room_are_refused_beforehand(make) -> None:
    model = make(max_tokens=100)
    model.check_images(98)
    with pytest.raises(ConfigError, match="image tokens are never cut"):
        model.check_images(99)
    assert make(max_tokens=10_000).max_tokens == 600  # the model's positions


def test_generation_in_a_batch_is_that_of_one_at_a_time(make) -> None:
    model, images = make(), features()
    together = model.generate(images, SAMPLES, max_new_tokens=8)
    alone = [
        model.generate(own or torch.empty(0, 3, WIDTH), [item], max_new_tokens=8)[0]
        for own, item in zip(split(images), SAMPLES, strict=True)
    ]
    assert together == alone
    assert len(set(together)) == 3
    # Greedy, one token at a time, by hand; an answer that a sample has is not looked at.
    embed = model.lm.get_input_embeddings()
    row, _ = lay_out(model.text.prompt(SAMPLES[0]["conversations"], 1), [4], 999)
    places = torch.tensor(row.places())
    embeds = embed(torch.tensor([[max(i, 0) for i in row.ids]]))
    embeds[0, places] = images[0]
    new = []
    with torch.no_grad():
        for _ in range(8):
            best = model.lm(inputs_embeds=embeds).logits[0, -1].argmax()
            new.append(best.item())
            embeds = torch.cat([embeds, embed(best[None, None])], 1)
    assert together[0] == model.text.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_generation_ends_at_the_end_token(make) -> None:
    model, images = make(), features()
    row = model.text.prompt(SAMPLES[0]["conversations"], 1)
    free = model.generate(images[:1], SAMPLES[:1], max_new_tokens=4)
    model.stop_ids = list(range(len(model.text.tokenizer)))
    assert model.generate(images[:1], SAMPLES[:1], max_new_tokens=4) != free
    assert make().stop_ids == [2]
    assert make(chat="plain").stop_ids == [model.text.tokenizer.convert_tokens_to_ids("<0x0A>"), 2]
    assert row.ids[0] == 1


def test_ranking_agrees_with_one_candidate_at_a_time(make) -> None:
    model, images = make(), features()
    options = [["It is a cat.", "red", "a"], ["three", "2"], ["people"]]
    samples = [{**s, "candidates": c} for s, c in zip(SAMPLES, options, strict=True)]
    scores = model.rank(images, samples)
    normalised = model.rank(images, samples, length_normalised=True)
    for own, item, candidates, line, means in zip(
        split(images), SAMPLES, options, scores, normalised, strict=True
    ):
        for candidate, score, mean in zip(candidates, line, means, strict=True):
            asked = {"conversations": [*item["conversations"][:-1], turns("", candidate)[1]]}
            lines = one_by_one(model, own, asked, only_answers=True)
            number = len(model.text.tokenizer(candidate, add_special_tokens=False).input_ids)
            last = lines[-number:]
            assert score == pytest.approx(last.sum().item(), abs=1e-4)
            assert mean == pytest.approx(last.mean().item(), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({}, lambda name: False),
        ({"tuning": "full"}, lambda name: True),
        ({"tuning": "lora", "lora": {"r": 2}}, lambda name: "lora_" in name),
        (
            {"tuning": "lora", "lora": {"r": 2, "target_modules": ["down_proj"]}},
            lambda name: "lora_" in name and "down_proj" in name,
        ),
    ],
)
def test_what_trains(make, options, trained) -> None:
    model, images = make(**options), features()
    for image in images:
        image.requires_grad_()
    names = [name for name, _ in model.named_parameters()]
    assert model.trainable_names() == [name for name in names if trained(name)]
    model.loss(images, SAMPLES).backward()
    assert all(image.grad.abs().sum() > 0 for image in images)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == trained(name)


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_checkpointing_gives_the_same_gradients_and_is_in_force(make, tuning, monkeypatch) -> None:
    grads = []
    runs = []
    for checkpointing in (False, True):
        model = make(tuning=tuning, checkpointing=checkpointing)
        counted = model.lm.model.layers[0].self_attn
        calls = []
        counted.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(5)
        images = [image.requires_grad_() for image in features()]
        model.train().loss(images, SAMPLES).backward()
        grads.append(images[0].grad)
        runs.append(len(calls))
    torch.testing.assert_close(*grads)
    assert runs == [1, 2]


def test_the_frozen_model_stays_in_eval(make) -> None:
    model = make(tuning="lora", lora={"r": 2, "lora_dropout": 0.5}).train()
    modes = {name: module.training for name, module in model.lm.named_modules()}
    assert {name for name, mode in modes.items() if mode} == {
        name for name in modes if "lora_dropout" in name or name.endswith(("q_proj", "v_proj"))
    } | {name for name in modes if "lora_" in name}
    assert make(tuning="full").train().lm.model.layers[0].training


def test_bfloat16(make) -> None:
    model = make(dtype="bfloat16", tuning="lora", lora={"r": 2})
    images = features()
    expected = make().loss(images, SAMPLES)
    loss = model.loss(images, SAMPLES)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.03, atol=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    assert len(model.generate(images, SAMPLES, max_new_tokens=3)) == 3
    assert len(model.rank(images, [{**s, "candidates": ["a"]} for s in SAMPLES])) == 3
    with pytest.raises(ConfigError, match="lost to rounding"):
        make(dtype="bfloat16", tuning="full")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lora": {"r": 4}}, "set it to 'lora'"),
        ({"chat": "template"}, "has no chat template"),
        ({"chat": "chatml"}, "'plain', 'v1', 'template'"),
    ],
)
def test_a_wrong_switch_is_one_sentence(make, options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        make(**options)


def test_it_is_in_the_registry(chat_folder) -> None:
    settings = dict(type="ChatLanguageModel", pretrained=str(chat_folder), chat="plain")
    assert LANGUAGE_MODELS.build(settings).width == WIDTH


def test_the_projector_is_llavas_mlp2x_gelu() -> None:
    projector = ImageProjector(3, 4)
    reference = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4))
    reference[0].load_state_dict(projector.linear_1.state_dict())
    reference[2].load_state_dict(projector.linear_2.state_dict())
    tokens = torch.randn(2, 5, 3)
    torch.testing.assert_close(projector(tokens), reference(tokens))
    assert F.gelu(torch.ones(1)).item() == pytest.approx(0.8413, abs=1e-4)  # the exact GELU


class Loss(nn.Module):
    """The loss as a module's forward, for `functional_call`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.loss(images, SAMPLES)


@pytest.mark.usefixtures("fake_cuda")
def test_the_loss_never_waits_for_the_device(make, monkeypatch) -> None:
    model = make(tuning="lora", lora={"r": 2}, checkpointing=True).train()
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # this torch has no CUDA
    with FakeTensorMode():
        fakes = {
            f"model.{name}": torch.empty(
                p.shape, dtype=p.dtype, device="cuda", requires_grad=p.requires_grad
            )
            for name, p in [*model.named_parameters(), *model.named_buffers()]
        }
        images = [torch.empty(n, WIDTH, device="cuda", requires_grad=True) for n in LENGTHS]
        # Whatever a device holds is unknown here: reading it back raises.
        with pytest.raises(DataDependentOutputException):
            images[0].sum().item()
        loss = functional_call(Loss(model), fakes, (images,))
        assert loss.device.type == "cuda"
        assert loss.requires_grad
