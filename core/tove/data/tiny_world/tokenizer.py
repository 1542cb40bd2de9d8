"""The tiny world's tokenizers: one token a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tove.data.tiny_world.dialogue import dialogue_words
from tove.data.tiny_world.text import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHAT_WORD = r"\n|\w+|[^\w\s]"
"""What the chat tokenizer makes a token of."""
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "USER: {{ message['content'] }} {% elif message['role'] == 'assistant' %}"
    "ASSISTANT: {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Vicuna's form without its system text. A mark begins with a token, or transformers finds none."""


def tiny_tokenizer(marks_ends: bool = False) -> PreTrainedTokenizerFast:
    """A transformers tokenizer over the words of the tiny world.

    Args:
        marks_ends: puts a start and an end token around a text, as CLIP's text tower reads it,
            instead of leaving that to the caller, as a language model's prompts do.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # CLIP's text tower is read at its end token: transformers looks for its id, unless that is 2,
    # and open_clip for the highest id. Last of all, it is found by both.
    words = {w: i for i, w in enumerate(["<pad>", "<bos>", "<unk>", *vocabulary(), "<eos>"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if marks_ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>",
            special_tokens=[(token, words[token]) for token in ("<bos>", "<eos>")],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=32 if marks_ends else 64,
        # CLIP's text tower takes no token types.
        **({"model_input_names": ["input_ids", "attention_mask"]} if marks_ends else {}),
    )


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with a token a word, lower case, the newline among them."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = {*vocabulary(), *dialogue_words(), "user", "assistant", "\n", ":", ",", "."}
    ids = {word: i for i, word in enumerate([*_SPECIAL, *sorted(words)])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(CHAT_WORD), "removed", invert=True)
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template=_TEMPLATE, model_max_length=1024, clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
