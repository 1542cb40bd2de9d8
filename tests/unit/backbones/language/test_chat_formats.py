"""Token ids and label masks, held to LLaVA's published recipe written out again below."""

import random

import pytest
from transformers import PreTrainedTokenizerFast

from tove.backbones.language.chat_formats import build_format
from tove.backbones.language.chat_tokens import IMAGE_ID, ChatTokenizer, Row, TokenKind, lay_out
from tove.errors import ConfigError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
IGNORED = -100
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "ASSISTANT: {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}USER: {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def chat(tokenizer, kind: str) -> ChatTokenizer:
    return ChatTokenizer(tokenizer, build_format(kind, tokenizer, "</s>"))


def labels(row: Row) -> list[int]:
    return [
        token if kind != TokenKind.GIVEN else IGNORED
        for token, kind in zip(row.ids, row.kinds, strict=True)
    ]


# --- LLaVA's recipe: encode with images, count lengths, mask what the lengths say ----------------


def with_images(text: str, tokenizer) -> list[int]:
    chunks = [tokenizer(chunk).input_ids for chunk in text.split("<image>")]
    ids = [tokenizer.bos_token_id]
    for number, chunk in enumerate(chunks):
        ids += ([IMAGE_ID] if number else []) + chunk[1:]
    return ids


def llava_v1(conversation, tokenizer, has_image: bool) -> tuple[list[int], list[int]]:
    text = SYSTEM
    for turn in conversation:
        value = turn["value"]
        if has_image and "<image>" in value:
            value = ("<image>\n" + value.replace("<image>", "").strip()).strip()
        text += f"USER: {value} " if turn["from"] == "human" else f"ASSISTANT: {value}</s>"

    def encode(part):
        return with_images(part, tokenizer) if has_image else tokenizer(part).input_ids

    ids = encode(text)
    target = list(ids)
    target[0] = IGNORED
    place = 1
    for number, part in enumerate(text.split("</s>")):
        if not part:
            break
        instruction = part.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        length = len(encode(part))
        given = len(encode(instruction)) - 2  # the start token, and the space at the end
        if number and not tokenizer.legacy:
            length, given = length - 1, given - 1
        target[place : place + given] = [IGNORED] * given
        place += length
    assert place == len(ids), "LLaVA would have left this sample out"
    return ids, target


def random_conversation(chance: random.Random, has_image: bool):
    words = "What is this cat on the mat people three 7 Zürich 猫 don't red, and\nuser's".split(" ")
    texts = [
        " ".join(chance.choices(words, k=chance.randint(1, 9)))
        for _ in range(2 * chance.randint(1, 4))
    ]
    if has_image:
        texts[0] = chance.choice(["<image>\n{}", "{}\n<image>", "{} <image>"]).format(texts[0])
    return turns(*texts)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("has_image", [True, False])
def test_v1_gives_llavas_token_ids_and_labels(llama_tokenizer, legacy, has_image) -> None:
    tokenizer = llama_tokenizer(legacy)
    chance = random.Random(0)
    for _ in range(200):
        conversation = random_conversation(chance, has_image)
        row = chat(tokenizer, "v1").sample(conversation, int(has_image))
        ids, target = llava_v1(conversation, tokenizer, has_image)
        assert row.ids == ids
        assert labels(row) == target


def test_v1_learns_each_answer_with_its_end_and_nothing_else(llama_tokenizer) -> None:
    tokenizer = llama_tokenizer()
    conversation = turns("What is this?\n<image>", "It is a cat.", "How many?", "2")
    row = chat(tokenizer, "v1").sample(conversation, 1)
    learned = [i for i in labels(row) if i != IGNORED]
    pieces = tokenizer.convert_ids_to_tokens(learned)
    assert "".join(pieces) == "▁It▁is▁a▁cat.</s>▁2</s>"
    assert row.ids[0] == tokenizer.bos_token_id
    assert row.ids.count(tokenizer.bos_token_id) == 1
    assert row.ids.count(tokenizer.eos_token_id) == 2
    assert [row.ids[i] for i, kind in enumerate(row.kinds) if kind == TokenKind.END] == [2, 2]
    before = tokenizer.convert_ids_to_tokens(row.ids[1 : row.ids.index(IMAGE_ID)])
    assert "".join(before) == "▁" + SYSTEM.replace(" ", "▁") + "USER:▁"
    after = row.ids[row.ids.index(IMAGE_ID) + 1 :]
    assert tokenizer.convert_ids_to_tokens(after)[:2] == ["▁", "<0x0A>"]  # the image, a new line


def test_plain_is_image_caption_and_newline(llama_tokenizer) -> None:
    tokenizer = llama_tokenizer()
    conversation = turns("Describe it.\n<image>", "a cat on a mat")
    row = chat(tokenizer, "plain").sample(conversation, 1)
    ids = with_images("<image>a cat on a mat\n", tokenizer)
    assert row.ids == ids
    assert labels(row) == [IGNORED, IGNORED, *ids[2:]]  # the start token and the image
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == "<0x0A>"
    assert tokenizer.eos_token_id not in ids
    assert chat(tokenizer, "plain").prompt(conversation, 1).ids == [1, IMAGE_ID]


def test_plain_takes_captions_of_images_only(llama_tokenizer) -> None:
    plain = chat(llama_tokenizer(), "plain")
    with pytest.raises(ConfigError, match="one question and one answer"):
        plain.sample(turns("a <image>", "b", "c", "d"), 1)
    with pytest.raises(ConfigError, match="one has none"):
        plain.sample(turns("a", "b"), 0)


def test_a_prompt_is_what_comes_before_the_answer(llama_tokenizer) -> None:
    tokenizer = llama_tokenizer()
    conversation = turns("<image>\nWhat?", "A cat.", "And how many?", "Three")
    v1 = chat(tokenizer, "v1")
    whole, prompt = v1.sample(conversation, 1), v1.prompt(conversation, 1)
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    assert v1.prompt(conversation[:3], 1) == prompt
    assert tokenizer.convert_ids_to_tokens(whole.ids[len(prompt.ids) :])[0][0] == "▁"
    assert whole.kinds[len(prompt.ids)] == TokenKind.ANSWER
    assert set(prompt.kinds) == {TokenKind.GIVEN}


def test_images_stand_where_the_text_says(llama_tokenizer) -> None:
    v1 = chat(llama_tokenizer(), "v1")
    several = v1.sample(turns("Is <image> or <image> red?", "The 2nd: it is <image>."), 3)
    assert several.ids.count(IMAGE_ID) == 3
    literal = v1.sample(turns("What does <image> mean?", "A tag."), 0)
    assert IMAGE_ID not in literal.ids
    with pytest.raises(ConfigError, match="2 images has 1 <image>"):
        v1.sample(turns("<image> What?", "It"), 2)


def test_turns_that_do_not_alternate_are_refused(llama_tokenizer) -> None:
    v1 = chat(llama_tokenizer(), "v1")
    with pytest.raises(ConfigError, match="must take turns"):
        v1.sample([*turns("a", "b"), *turns("c", "d")[1:]], 0)
    first = [{"from": "gpt", "value": "Hello"}, *turns("a", "b")]
    assert v1.sample(first, 0) == v1.sample(turns("a", "b"), 0)  # as LLaVA does


# --- the tokenizer's own template ----------------------------------------------------------------


@pytest.fixture
def chatml(llama_tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = llama_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def learned_text(tokenizer, row: Row) -> str:
    return "".join(tokenizer.convert_ids_to_tokens([i for i in labels(row) if i != IGNORED]))


def test_a_template_without_marks_learns_answers_and_end_tokens(chatml) -> None:
    conversation = turns("<image>What?", "It is a cat.", "How many?", "It is a cat.")
    row = chat(chatml, "template").sample(conversation, 1)
    assert learned_text(chatml, row) == "It▁is▁a▁cat.<|im_end|>" * 2
    text = chatml.apply_chat_template(
        [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "It is a cat."}],
        return_dict=True,
    )["input_ids"]
    alone = chat(chatml, "template").sample(turns("What?", "It is a cat."), 0)
    assert alone.ids == text
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    assert chat(chatml, "template").end_ids() == [end]


def test_a_template_with_marks_learns_what_it_marks(llama_tokenizer) -> None:
    tokenizer = llama_tokenizer()
    tokenizer.chat_template = MARKED
    conversation = turns("What is this?", "It is a cat.", "How many?", "Three.")
    row = chat(tokenizer, "template").sample(conversation, 0)
    messages = [
        {"role": "assistant" if turn["from"] == "gpt" else "user", "content": turn["value"]}
        for turn in conversation
    ]
    made = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    assert row.ids == made["input_ids"]
    assert [int(kind != TokenKind.GIVEN) for kind in row.kinds] == made["assistant_masks"]
    ends = [row.ids[i] for i, kind in enumerate(row.kinds) if kind == TokenKind.END]
    assert ends == [tokenizer.eos_token_id] * 2


def test_a_template_that_rewrites_earlier_turns_is_refused(chatml) -> None:
    chatml.chat_template = "{{ messages|length }}" + CHATML
    with pytest.raises(ConfigError, match="differently once more follow"):
        chat(chatml, "template").sample(turns("a", "b", "c", "d"), 0)


def test_a_missing_template_and_an_unknown_format_are_one_sentence(llama_tokenizer) -> None:
    tokenizer = llama_tokenizer()
    with pytest.raises(ConfigError, match="has no chat template"):
        build_format("template", tokenizer, "</s>")
    with pytest.raises(ConfigError, match="must be one of 'plain', 'v1', 'template'"):
        build_format("v2", tokenizer, "</s>")


# --- length --------------------------------------------------------------------------------------


def test_a_row_is_cut_but_never_inside_an_image() -> None:
    row = Row([1, IMAGE_ID, 5, IMAGE_ID, 6, 7], [0, 0, 1, 0, 1, 2])
    spread, used = lay_out(row, [3, 4], 100)
    assert spread.ids == [1, *[IMAGE_ID] * 3, 5, *[IMAGE_ID] * 4, 6, 7]
    assert spread.kinds == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2]
    assert spread.places() == [1, 2, 3, 5, 6, 7, 8]
    assert used == 2
    assert lay_out(row, [3, 4], 10)[0].ids == spread.ids[:10]
    for limit in range(5, 9):  # the second image does not fit whole
        cut, used = lay_out(row, [3, 4], limit)
        assert (cut.ids, used) == (spread.ids[:5], 1)
    assert lay_out(row, [3, 4], 9) == (Row(spread.ids[:9], spread.kinds[:9]), 2)
    assert lay_out(row, [3, 4], 3) == (Row([1], [0]), 0)
