"""Random tiny language models of five families, with a word-level tokenizer, saved to a folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
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


CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT:",
    "USER: What is this? ASSISTANT: It is a cat on a red mat, and 2 dogs.",
    "How many people are there? There are three people. user assistant",
]
# As in Llama's vocabulary "USER" is one token and "\u2581USER" two, which LLaVA's lengths count on.
LLAMAS = [("E", "R"), ("U", "S"), ("\u2581", "US"), ("US", "ER")]


def build_llama_tokenizer(legacy: bool = True) -> PreTrainedTokenizerFast:
    """A SentencePiece-like BPE with byte fallback, laid out as Llama's: <unk> <s> </s> bytes.

    As transformers converts it: the legacy one puts a space before every text, the other one before
    the first text only, not behind a special token.
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        CORPUS * 3, trainers.BpeTrainer(vocab_size=250, show_progress=False)
    )
    learned = json.loads(trained.to_str())["model"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [word for word in learned["vocab"] if word not in words]
    words += [word for word in map("".join, LLAMAS) if word not in words]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = LLAMAS + [tuple(m) for m in learned["merges"] if ":" not in "".join(m)]
    core = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if legacy:
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.legacy = legacy
    return tokenizer


@pytest.fixture(scope="session")
def llama_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return build_llama_tokenizer


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with Llama's kind of tokenizer, 600 positions, saved to a folder."""
    folder = tmp_path_factory.mktemp("chat") / "llama"
    tokenizer = build_llama_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=600,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
