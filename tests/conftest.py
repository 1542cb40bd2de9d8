"""A complete run in miniature, from random weights and drawn squares; seconds on one core."""

import gc
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from PIL import Image, ImageDraw

WORDS = "a picture of the red blue square is left right no yes this true ? and on side".split()
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def _save_encoder(folder: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    CLIPVisionModel(config).save_pretrained(folder)


def _save_language_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    vocabulary = {word: index for index, word in enumerate([*SPECIAL.values(), *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, **SPECIAL).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=48,
        is_decoder=True,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    BertLMHeadModel(config).save_pretrained(folder)


def _draw(path: Path, index: int) -> tuple[str, str]:
    """Draw one square; give its colour and its side."""
    colour, side = ("red", "blue")[index % 2], ("left", "right")[index // 2 % 2]
    image = Image.new("RGB", (40, 32), (index * 7 % 256, 90, 90))
    x = 4 if side == "left" else 24
    ImageDraw.Draw(image).rectangle((x, 8, x + 11, 20), fill=colour)
    image.save(path)
    return colour, side


def _write_data(root: Path) -> None:
    for folder in ("images", "annotations", "unlabelled"):
        (root / folder).mkdir(parents=True)
    for split, count in {"train": 12, "val": 6, "test": 8}.items():
        captions: dict[str, list] = {"images": [], "annotations": []}
        lines = []
        for index in range(count):
            name = f"{split}_{index:03d}.png"
            colour, side = _draw(root / "images" / name, index)
            captions["images"].append({"id": index, "file_name": name})
            text = f"a {colour} square on the {side} side"
            captions["annotations"].append({"image_id": index, "caption": text})
            statement = f"the {colour} square is on the left side"
            row = {"image": name, "caption": statement, "label": int(side == "left")}
            lines.append(json.dumps({**row, "relation": "left"}))
        (root / f"annotations/captions_{split}.json").write_text(json.dumps(captions))
        (root / f"annotations/statements_{split}.jsonl").write_text("\n".join(lines))
    for index in range(10):
        _draw(root / "unlabelled" / f"{index:03d}.png", index + 100)


@pytest.fixture(scope="module", autouse=True)
def _imports_not_collected() -> None:
    """Keep collections from looking through all that is imported: a data set asks for one.

    A command that ran in this process has lifted that.
    """
    if gc.get_freeze_count() < 100_000:
        gc.freeze()


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip`, `lm` and `data`."""
    root = tmp_path_factory.mktemp("miniature")
    _save_encoder(root / "clip")
    _save_language_model(root / "lm")
    _write_data(root / "data")
    return root


def _loader(datasets: list[dict] | dict, infinite: bool) -> dict:
    if isinstance(datasets, list):
        datasets = dict(type="ConcatDataset", datasets=datasets)
    kind = "InfiniteSampler" if infinite else "DefaultSampler"
    return dict(
        num_workers=0,
        sampler=dict(type=kind, shuffle=infinite),
        dataset=datasets,
    )


def miniature_settings(root: Path) -> dict[str, Any]:
    """Give the settings of the miniature run, every stage but the report."""

    def statements(split: str, test_mode: bool = True) -> dict:
        file = f"annotations/statements_{split}.jsonl"
        return dict(type="VSRStatements", ann_file=file, test_mode=test_mode)

    def captions(split: str, test_mode: bool = True) -> dict:
        file = f"annotations/captions_{split}.json"
        return dict(type="CocoCaptions", ann_file=file, test_mode=test_mode)

    return dict(
        default_scope="tove",
        seed=0,
        image_size=32,
        batch_size=4,
        data_root=str(root / "data"),
        model=dict(
            type="ToVE",
            encoder=dict(type="TransformersCLIP", pretrained=str(root / "clip")),
            experts=dict(
                depth=dict(type="tiny_depth", tiny=True),
                dino=dict(type="tiny_dino", tiny=True),
            ),
            language=dict(
                type="CausalLanguageModel",
                pretrained=str(root / "lm"),
                adapters=dict(type="bottleneck", width=4),
            ),
            generation=dict(num_beams=1, min_new_tokens=1, max_new_tokens=4),
            token_cache=dict(max_gb=0.1),
        ),
        train_dataloader=_loader([statements("train", False), captions("train", False)], True),
        val_dataloader=_loader(statements("val"), False),
        test_dataloader=_loader([statements("test"), captions("test")], False),
        test_evaluator=[dict(type="StatementAccuracy"), dict(type="CaptionScore")],
        unlabelled_dataloader=_loader(dict(type="UnlabelledImages", img_dir="unlabelled"), True),
        schedule=dict(steps=6, lr=1e-2, warmup=2, checkpoint_interval=2, log_interval=3),
        merging=dict(model=dict(type="Merge"), schedule=dict(steps=4)),
        stages=[
            dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
            dict(type="TrainStage", name="baseline", model=dict(type="MatchedBaseline")),
            dict(type="TrainStage", name="transfer", row="tove"),
            dict(type="DetachStage", name="detach", source="transfer"),
            dict(type="MergeStage", name="merge", source="transfer"),
            dict(type="ExportStage", name="merged", source="merge", folder="export"),
        ],
    )


@pytest.fixture(scope="session")
def make_settings(miniature: Path) -> Callable[[], dict[str, Any]]:
    """Give fresh settings of the miniature run."""
    return partial(miniature_settings, miniature)


@pytest.fixture
def settings(make_settings: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The miniature run's settings, to be changed at will."""
    return make_settings()


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write settings as a config file and give its path."""

    def write(settings: dict[str, Any], name: str = "mini.py") -> Path:
        path = tmp_path / name
        Config(settings).dump(path)
        return path

    return write


CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT:",
    "USER: What is this? ASSISTANT: It is a cat on a red mat, and 2 dogs.",
    "How many people are there? There are three people. user assistant",
]
# As in Llama's vocabulary "USER" is one token and "\u2581USER" two, which LLaVA's lengths count on.
LLAMAS = [("E", "R"), ("U", "S"), ("\u2581", "US"), ("US", "ER")]


def build_llama_tokenizer(legacy: bool = True) -> Any:
    """A SentencePiece-like BPE with byte fallback, laid out as Llama's: <unk> <s> </s> bytes.

    As transformers converts it: the legacy one puts a space before every text, the other one before
    the first text only, not behind a special token.
    """
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

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
def llama_tokenizer() -> Callable[..., Any]:
    return build_llama_tokenizer


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with Llama's kind of tokenizer, 600 positions, saved to a folder."""
    from transformers import AutoModelForCausalLM, LlamaConfig

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
