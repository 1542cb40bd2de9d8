"""The tiny world's tokenizer: one token a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tove.data.tiny_world.text import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A transformers tokenizer over the words of the tiny world."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # CLIP's text tower is read at its end token: transformers looks for its id, unless that is 2,
    # and open_clip for the highest id. Last of all, it is found by both.
    words = {w: i for i, w in enumerate(["<pad>", "<bos>", "<unk>", *vocabulary(), "<eos>"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=64,
    )
