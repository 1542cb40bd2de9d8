"""Random tiny language models of five families, with a word-level tokenizer, saved to a folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

WORDS = "a picture of the red blue ball box is left right no yes true false ? two balls".split()
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT_LIKE = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=40,
    bos_token_id=0,
    pad_token_id=1,
    eos_token_id=2,
)
LLAMA_LIKE = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=40
)
CONFIGS: dict[str, Callable] = {
    "gpt2": lambda v: GPT2Config(vocab_size=v, n_positions=40, n_embd=16, n_layer=2, n_head=2),
    "bert": lambda v: BertConfig(vocab_size=v, **BERT_LIKE),
    "roberta": lambda v: RobertaConfig(vocab_size=v, **BERT_LIKE),
    "opt": lambda v: OPTConfig(vocab_size=v, ffn_dim=32, word_embed_proj_dim=16, **LLAMA_LIKE),
    "llama": lambda v: LlamaConfig(
        vocab_size=v, intermediate_size=32, num_key_value_heads=2, **LLAMA_LIKE
    ),
}


def build_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, **(special or SPECIAL))


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("lms")

    def build(family: str) -> Path:
        folder = root / family
        if not folder.exists():
            torch.manual_seed(0)
            tokenizer = build_tokenizer()
            config = CONFIGS[family](len(tokenizer))
            config.is_decoder = True
            model = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():  # default scales make all logits nearly equal
                if parameter.dim() > 1:
                    parameter.data.normal_(0, 0.5)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="session")
def word_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return build_tokenizer
