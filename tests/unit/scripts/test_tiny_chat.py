"""The chat model of the tiny world: what is saved, how it is taught."""

import importlib
import math
import random
import sys
from pathlib import Path

import pytest
import torch

from tove.backbones.language.chat import ChatLanguageModel
from tove.backbones.language.chat_formats import VICUNA
from tove.backbones.language.chat_tokens import IMAGE_ID
from tove.data.tiny_world.dialogue import KINDS, ask, words_conversation
from tove.data.tiny_world.render import render
from tove.data.tiny_world.rendered import seeded
from tove.data.tiny_world.scene import sample_scenes
from tove.data.tiny_world.text import ordered_caption, things_of
from tove.data.tiny_world.tokenizer import chat_tokenizer

ROOT = Path(__file__).parents[3]
CAPTION = {"from": "human", "value": "<image>"}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module("train_tiny_chat")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def things():
    scenes = sample_scenes(10, 0, 80)
    return things_of(scenes, render(scenes, 32))


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    """What the script writes, not trained."""
    path = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    script.chat_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def chat(folder):
    return ChatLanguageModel(folder, chat="template").eval()


def turns_of(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def test_stock_classes_load_it(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, about = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not about["missing_keys"]
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.vocab_size == len(tokenizer)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )


def test_the_tokenizer_knows_every_word_of_conversations_and_captions(chat, things):
    tokenizer = chat.text.tokenizer
    for number, row in enumerate(things):
        asked = [ask(row, kind, seeded(1, number)) for kind in KINDS]
        texts = [f"{q.text} {q.answer}" for q in asked if q]
        for text in [f"{ordered_caption(row)}\n", *texts]:
            assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text
    caption = ordered_caption(things[0])
    assert tokenizer.decode(tokenizer(caption, add_special_tokens=False).input_ids) == caption


def test_the_template_is_v1_without_its_system_text_and_marks_the_answers(chat, folder):
    v1 = ChatLanguageModel(folder, chat="v1").text.chat
    turns = words_conversation("w", random.Random(0))["conversations"]
    text = v1.render(turns, 0).text.removeprefix(f"{VICUNA} ")
    assert chat.text.chat.render(turns, 0).text == f"<s>{text}"
    row = chat.text.sample(turns, 0)
    learned = [i for i, kind in zip(row.ids, row.kinds, strict=True) if kind]
    said = " </s> ".join(turn["value"] for turn in turns[1::2]) + " </s>"
    assert chat.text.tokenizer.decode(learned) == said


def test_lessons_are_the_engine_s_token_ids_and_labels(chat, script, folder):
    plain = ChatLanguageModel(folder, chat="plain").text
    writer = script.Writer(chat.text.tokenizer)
    asked = [("what colour is the box?", "red"), ("how many red things are there?", "one")]
    flat = [text for pair in asked for text in pair]
    pairs = [
        (chat.text.sample(turns_of(f"<image>\n{flat[0]}", *flat[1:]), 1), (asked, True)),
        (chat.text.sample(turns_of(*flat), 0), (asked, False)),
    ]
    for row, given in pairs:
        text = writer.conversation(*given)
        assert text.ids == row.ids
        assert text.learned == [kind > 0 for kind in row.kinds]
    row = plain.sample([CAPTION, {"from": "gpt", "value": "a red ball and a cyan box"}], 1)
    text = writer.caption("a red ball and a cyan box")
    assert text.ids == row.ids
    assert text.learned == [kind > 0 for kind in row.kinds]
    assert script.IMAGE == IMAGE_ID


def test_images_are_put_in_their_rows_and_places(chat, script):
    """Logits of a mixed batch are the engine's own, each row's from its image."""
    writer, tokenizer = script.Writer(chat.text.tokenizer), chat.text.tokenizer
    asked = [("how many balls are there?", "one")]
    texts = [writer.conversation(asked, image) for image in (True, False, True)]
    batch = script.pad(texts, 4, tokenizer.pad_token_id)
    image = torch.randn(3, 4, chat.width)
    with torch.no_grad():
        ours = script.logits_of(chat.lm, batch, image)
    seen = dict(conversations=turns_of("<image>\nhow many balls are there?", "one"))
    samples = [{**seen, "image_paths": ["a"]}, dict(conversations=turns_of(*asked[0]))]
    samples.append(samples[0])
    theirs = chat.logits(image[[0, 2]], samples)
    for row, logits in enumerate(theirs):
        torch.testing.assert_close(ours[row, : len(logits)], logits, rtol=1e-4, atol=1e-4)


def test_what_is_hidden_is_gone_from_whole_scenes(script):
    torch.manual_seed(0)
    memory = script.hide(torch.ones(400, 5, script.SYMBOLS))
    depth = memory[..., 15:17].flatten(1)
    gone = (depth == 0).all(1)
    assert (gone == (depth == 0).any(1)).all()
    assert 0.15 < gone.float().mean() < 0.35
    assert (memory[..., 0] != 0).all()


def test_a_short_training_writes_a_folder_and_its_card(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "HELD_OUT", 40)
    argv = ["x", "--steps", "4", "--batch", "4", "--scenes", "100", "--out", str(tmp_path / "chat")]
    monkeypatch.setattr(sys, "argv", argv)
    script.main()
    made = ChatLanguageModel(str(tmp_path / "chat"), chat="template")
    assert made.width == 96
    assert '"accuracy_given_symbols"' in (tmp_path / "chat/card.json").read_text()


def test_where_a_thing_is_is_told_in_sixths_of_the_image_and_of_the_range_of_depth(script, things):
    lessons = sys.modules["tiny_chat_lessons"]
    numbers = ("zero", "one", "two", "three", "four", "five")
    for row in things:
        question = lessons.where(row, random.Random(0))
        if question is None:
            continue
        name = question.text.removeprefix("where is the ").removesuffix("?")
        thing = next(t for t in row if t.name == name)
        x, y, away = (numbers.index(word) for word in question.answer.split())
        assert (x, y) == (int(thing.x * 6), int(thing.y * 6))
        assert away == min(5, int(6 * math.log(thing.depth / 3) / math.log(8 / 3)))
