import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tove.backbones.language.tokenization import PromptTokenizer, pad_rows
from tove.errors import ConfigError


def test_padding_sides() -> None:
    ids, mask = pad_rows([(1, 2, 3), (4,)], 9, torch.device("cpu"), side="left")
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    ids, mask = pad_rows([(1, 2, 3), (4,)], 9, torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_copies_to_a_gpu_are_pinned_and_not_waited_for(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pin") or self)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, device, **how: calls.append((device, how)) or self
    )
    gpu = torch.device("cuda")
    pad_rows([(1, 2, 3), (4,)], 9, gpu)  # ids and mask in one copy
    assert calls == ["pin", (gpu, {"non_blocking": True})]


def test_special_tokens_fall_back_sanely(word_tokenizer) -> None:
    only_end = PromptTokenizer(word_tokenizer(eos_token="</s>", unk_token="<unk>"))
    assert only_end.bos == only_end.pad == only_end.eos
    bert = PromptTokenizer(word_tokenizer(cls_token="<s>", sep_token="</s>", pad_token="<pad>"))
    assert (bert.bos, bert.eos, bert.pad) == (0, 2, 1)
    with pytest.raises(ConfigError, match="eos_token"):
        PromptTokenizer(word_tokenizer(unk_token="<unk>"))


def test_an_empty_prompt_is_the_start_token_and_an_empty_target_is_refused(word_tokenizer) -> None:
    text = PromptTokenizer(word_tokenizer())
    assert text.prompt("") == (text.bos,)
    with pytest.raises(ConfigError, match="no token"):
        text.target("a picture of", " ")


def test_a_sample_is_its_prompt_then_what_is_to_be_learned(word_tokenizer) -> None:
    text = PromptTokenizer(word_tokenizer())
    prompt, target = text.prompt("a picture of"), text.target("a picture of", "red ball")
    assert (len(prompt), len(target)) == (4, 2)
    assert text.sample("a picture of", "red ball", 40) == ((*prompt, *target, text.eos), 4)
    assert text.sample("a picture of", "red ball", 5) == ((*prompt, target[0]), 4)
    # Nothing is to be learned of what is left out, has no token or finds no room.
    assert text.sample("a picture of", None, 40) == (prompt, 4)
    assert text.sample("a picture of", "  ", 40) == (prompt, 4)
    assert text.sample("a picture of", "red ball", 4) == (prompt, 4)
    assert text.sample("a picture of", "red ball", 3) == (prompt[:3], 3)


def test_targets_keep_the_space_of_a_byte_level_tokenizer() -> None:
    """GPT-2 has other tokens for ' ball' than for 'ball': the target must continue the prompt."""
    words = ["a", "red", "ball"]
    pieces = ["</s>", "Ġ", *(f"Ġ{word}" for word in words), *words]
    core = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="</s>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    text = PromptTokenizer(fast)
    spaced, bare = pieces.index("Ġball"), pieces.index("ball")
    assert text.target("a red", "ball") == (spaced,)
    assert text.target("a red ", "ball") == (spaced,)
    assert text.target("", "ball") == (bare,)
    assert text.target("a red", " ball ") == (spaced,)
    # The space is the target's: a prompt that ends in one has no token for it.
    assert text.prompt("a red ") == text.prompt("a red")
    assert text.prompt("a red") == (text.bos, pieces.index("a"), pieces.index("Ġred"))
    ids = [*text.prompt("a red"), *text.target("a red", "ball")]
    assert text.decode(torch.tensor([ids])) == ["a red ball"]
