"""Conversations through every method: several images, tiles, none; the same as by hand."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from PIL import Image

from tove.backbones.language.chat import ChatLanguageModel
from tove.data.collate import tove_collate
from tove.data.conversations import conversation_item
from tove.data.views import build_view
from tove.methods.vision_language_model import Views
from tove.modules.tiles import pack_views
from tove.registry import MODELS

KINDS = [
    "ToVE",
    "PlainCLIP",
    "MatchedBaseline",
    "SingleExpert",
    "UniformAverage",
    "ConcatChannels",
    "ConcatTokens",
    "PrismerResampler",
]


def talk(number: int, view: str = "pad", **entries) -> dict:
    """A sample with a number of images."""
    images = [Image.new("RGB", (50, 20 + 40 * i), (90 * i, 30, 60)) for i in range(number)]
    views = [build_view(view, 32)(image) for image in images]
    sample = dict(
        task="conversation",
        image_id="a",
        view=view,
        image_paths=[str(i) for i in range(number)],
        conversations=[
            {"from": "human", "value": "<image>" * number + "What is this?"},
            {"from": "gpt", "value": "It is a cat."},
        ],
        **entries,
    )
    return conversation_item(sample, views, 32)


@pytest.fixture
def make(make_model, chat_folder):
    def build(kind="ToVE", language=None, **options):
        init_default_scope("tove")
        own = ChatLanguageModel(str(chat_folder), **(language or {}))
        given = {"merging": {"weight": 1.0}} if kind == "ToVE" else {}
        if kind == "SingleExpert":
            given["expert"] = "coarse"
        return make_model(
            kind=kind, language=own, generation={"max_new_tokens": 3}, **given | options
        )

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_and_answers_on_whatever_has_images_or_none(make, kind):
    model = make(kind, language={"newline": True})
    mixed = tove_collate([talk(2), talk(0), talk(1, "anyres")])
    alone = tove_collate([talk(0), talk(0)])
    assert len(mixed["images"]) == 5
    for batch in (mixed, alone):
        model.train().zero_grad()
        losses = model(**batch, mode="loss")
        sum(value for name, value in losses.items() if "loss" in name).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        if batch is alone:
            assert all(p.grad is not None and not p.grad.any() for p in trained)
        else:
            assert any(p.grad is not None and p.grad.any() for p in trained)
        answered = model.eval()(**batch, mode="predict")
        assert all(isinstance(sample["prediction"], str) for sample in answered)
    assert kind == "PlainCLIP" or kind in MODELS.module_dict


def test_the_language_model_reads_each_image_where_it_belongs(make):
    model = make("PlainCLIP", language={"newline": True}).eval()
    items = [talk(2), talk(1, "anyres"), talk(0)]
    batch = tove_collate(items)
    with torch.no_grad():
        loss = model(**batch, mode="loss")["loss_lm"]
        tokens = model(batch["images"])
        wide = items[1]["sample"]["views"][0]
        packed = pack_views(
            tokens[2:], model.language.newline_D, wide["size"], wide["tiles"], model.encoder.grid
        )
        expected = model.language.loss([tokens[0], tokens[1], packed], batch["data_samples"])
    assert torch.equal(loss, expected)
    for row in range(3):  # a mixed batch answers each as alone
        (alone,) = model(**tove_collate([items[row]]), mode="predict")
        assert alone["prediction"] == model(**batch, mode="predict")[row]["prediction"]


def test_no_expert_runs_where_there_is_no_image_and_methods_see_whose_views_they_are(make):
    model = make("ToVE", merging=None)
    calls, seen = [], []
    for expert in model.hub.experts.values():
        expert.expert.register_forward_hook(lambda *_: calls.append(1))
    fuse = model.fuse
    model.fuse = lambda images, ids=None, views=None: seen.append(views) or fuse(images, ids, views)
    model(**tove_collate([talk(0)]), mode="loss")
    assert not calls
    model(**tove_collate([talk(1), talk(2)]), mode="loss")
    assert len(calls) == 2
    assert isinstance(seen[-1], Views)
    assert seen[-1].owner_V.tolist() == [0, 1, 1]
    assert seen[-1].content_V4.shape == (3, 4)


def test_prompts_are_asked_of_a_chat_model_as_questions_about_their_image(make, batch):
    model = make("PlainCLIP").eval()
    with torch.no_grad():
        answered = model(**batch, mode="predict")
        first = batch["data_samples"][0]
        asked = [{"from": "human", "value": f"<image>\n{first['prompt']}"}]
        talked = {"conversations": asked, "image_paths": ["x"], "candidates": ["no", "yes"]}
        scores = model.language.rank(model(batch["images"][:1]), [talked])
        losses = model(**batch, mode="loss")
    assert [sample["task"] for sample in answered] == ["statement", "caption", "statement"]
    torch.testing.assert_close(answered[0]["scores"], scores[0])
    assert answered[0]["prediction"] in (0, 1)
    assert losses["loss_lm"].isfinite()
    together = tove_collate([{"image": batch["images"][0][:, :32, :32], "sample": first}, talk(2)])
    assert len(model(**together, mode="predict")) == 2


def test_tokens_of_views_are_cached_by_image_and_place(make):
    cached = make("ToVE", token_cache={"max_gb": 0.01}, merging=None).eval()
    batch = tove_collate([talk(2), talk(1, "anyres")])
    with torch.no_grad():
        first = cached(**batch)
        assert torch.equal(first, cached(**batch))
        torch.testing.assert_close(first, make("ToVE", merging=None).eval()(**batch))


def gradients(model: torch.nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    losses = model(**batch, mode="loss")
    sum(value for name, value in losses.items() if "loss" in name).backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return {name.removeprefix("module."): p.grad for name, p in trained}


def one_of_two(rank: int, model: torch.nn.Module, halves: list[dict], folder: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", timedelta(minutes=2), rank=rank, world_size=2
    )
    wrapped = MMDistributedDataParallel(
        model, broadcast_buffers=False, find_unused_parameters=model.leaves_unused
    )
    found = gradients(wrapped, halves[rank])
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.parametrize("kind", ["PlainCLIP", "ToVE", "MoVEKD"])
def test_a_process_without_an_image_stays_in_step_and_the_two_have_the_gradients_of_one(
    make, kind, tmp_path
):
    options = {"mole": {"num_experts": 2, "rank": 4, "dropout": 0.0}, "student": "full"}
    model = make(kind, **(options if kind == "MoVEKD" else {})).train()
    seen, words = [talk(1), talk(2)], [talk(0), talk(0)]
    expected = gradients(model, tove_collate(seen + words))
    model.zero_grad()
    halves = [tove_collate(half) for half in (seen, words)]
    started = (one_of_two, (model, halves, tmp_path), 2)
    running = torch.multiprocessing.start_processes(*started, join=False, start_method="fork")
    while not running.join(timeout=150):
        pass
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == expected.keys()
        for name, grad in found.items():
            torch.testing.assert_close(grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)
    assert any(grad.any() for grad in expected.values())
