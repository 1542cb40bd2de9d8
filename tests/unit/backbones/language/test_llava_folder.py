import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.experts.licences import Terms
from tove.backbones.language import llava_folder
from tove.backbones.language.chat import ChatLanguageModel
from tove.backbones.language.image_projector import ImageProjector
from tove.backbones.language.llava_folder import LlavaParts, check_parts, write_llava_folder
from tove.data.views import build_view
from tove.errors import ConfigError
from tove.modules.tiles import pack_images

GRIDS = [(1, 2), (2, 1), (2, 2)]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "</s>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A process that has never heard of this package, as a user's would be.
STOCK = """
import json, sys
import torch, transformers
from PIL import Image
folder, image, name, out = sys.argv[1:]
assert "tove" not in sys.modules
model, told = getattr(transformers, name + "ForConditionalGeneration").from_pretrained(
    folder, dtype=torch.float32, output_loading_info=True)
# Version 5 resizes by torchvision where it is not told, up to a grey level off Pillow.
pixels = {"backend": "pil"} if transformers.__version__ >= "5" else {}
processor = transformers.AutoProcessor.from_pretrained(folder, **pixels)
content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
messages = [{"role": "user", "content": content}]
text = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(images=Image.open(image), text=text, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0]
    ids = model.generate(**inputs, max_new_tokens=8)
answer = processor.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
torch.save(dict(logits=logits, answer=answer.strip(), missing=sorted(told["missing_keys"]),
    unexpected=sorted(told["unexpected_keys"]), version=transformers.__version__,
    processor=type(processor).__name__, ids=inputs["input_ids"][0].tolist()), out)
"""


@pytest.fixture
def make(chat_folder, clip_folder):
    """Build the parts, with LoRA that changes the language model, and the view they saw."""

    def build(view="pad", chat="v1", layer=-1, lora=True, pretrained=None, **options):
        torch.manual_seed(0)
        options |= {"tuning": "lora", "lora": {"r": 2}} if lora else {}
        language = ChatLanguageModel(str(pretrained or chat_folder), chat=chat, **options)
        for name, parameter in language.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, 0, 0.1)
        encoder = TransformersCLIP(clip_folder, layer=layer)
        projector = ImageProjector(encoder.width, language.width)
        tiles = {"grids": GRIDS, "newline_D": torch.randn(language.width)}
        return LlavaParts(
            encoder, projector, language, view, **(tiles if view == "anyres" else {})
        ), build_view({"type": view, **({"grids": GRIDS} if view == "anyres" else {})}, 32)

    return build


@pytest.fixture
def photo(tmp_path):
    chance = np.random.default_rng(0)
    image = Image.fromarray(chance.integers(0, 256, (40, 61, 3), np.uint8))
    image.save(tmp_path / "photo.png")
    return image


def in_stock(folder, tmp_path, name="Llava", path=""):
    """What a process with stock transformers gives for a folder."""
    out = tmp_path / "out.pt"
    subprocess.run(
        [sys.executable, "-c", STOCK, str(folder), str(tmp_path / "photo.png"), name, str(out)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
    )
    return torch.load(out)


def in_training(parts, view, photo):
    """What the parts themselves give: logits and answer."""
    views = view(photo)
    sample = {
        "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}],
        "image_paths": ["photo.png"],
        "views": [dict(size=views.size, tiles=views.tiles, num_views=len(views.pixels_V3SS))],
    }
    with torch.no_grad():
        tokens = parts.projector(parts.encoder(views.pixels_V3SS.float() / 255))
        features = pack_images(tokens, [sample], parts.encoder.grid, parts.newline_D)
        logits = parts.language.logits(features, [sample])[0]
        return logits, parts.language.generate(features, [sample], max_new_tokens=8)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "name", "layer"),
    [("crop", "Llava", -1), ("pad", "Llava", -2), ("anyres", "LlavaNext", -2)],
)
def test_stock_transformers_gives_the_same_logits_and_the_same_answer(
    make, photo, tmp_path, view, name, layer
) -> None:
    parts, views = make(view, layer=layer)
    folder = write_llava_folder(parts, tmp_path / "llava")
    stock = in_stock(folder, tmp_path, name)
    logits, answer = in_training(parts, views, photo)
    assert (stock["missing"], stock["unexpected"]) == ([], [])
    assert stock["processor"] == f"{name}Processor"
    torch.testing.assert_close(stock["logits"][:, : logits.shape[1]], logits, rtol=1e-5, atol=1e-5)
    assert stock["answer"] == answer
    assert answer
    config = json.loads((folder / "config.json").read_text())
    assert config["vision_feature_layer"] == layer
    assert config["vision_feature_select_strategy"] == "default"


@pytest.fixture(scope="session")
def tied_folder(chat_folder, tmp_path_factory):
    """A model whose head is its word embeddings, with a chat template that has no start token."""
    folder = tmp_path_factory.mktemp("tied")
    config = AutoConfig.from_pretrained(chat_folder)
    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    config.tie_word_embeddings, config.vocab_size = True, len(tokenizer) + 70
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_chat_template_and_tied_embeddings(make, photo, tmp_path, tied_folder) -> None:
    parts, views = make("pad", chat="template", pretrained=tied_folder)
    folder = write_llava_folder(parts, tmp_path / "llava")
    stock = in_stock(folder, tmp_path)
    logits, answer = in_training(parts, views, photo)
    assert stock["missing"] == []
    torch.testing.assert_close(stock["logits"], logits, rtol=1e-5, atol=1e-5)
    assert stock["answer"] == answer
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "language_model.lm_head.weight" not in file.keys()


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("chat", ["v1", "plain", "template"])
def test_the_folders_processor_encodes_as_training_does(
    make, tmp_path, chat_folder, llama_tokenizer, legacy, chat
) -> None:
    tokenizer = llama_tokenizer(legacy)
    tokenizer.chat_template = CHATML
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(chat_folder).save_pretrained(source)
    tokenizer.save_pretrained(source)
    parts, _ = make(chat=chat, pretrained=source)
    folder = write_llava_folder(parts, tmp_path / "llava")  # compares the ids itself
    assert (folder / "chat_template.jinja").is_file()


def test_the_tokenizer_ends_where_the_template_s_answers_do(make, tmp_path, tied_folder) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tied_folder)
    tokenizer.eos_token = "<|im_start|>"  # as that of SmolLM2's GGUF has it
    AutoModelForCausalLM.from_pretrained(tied_folder).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    parts, _ = make(chat="template", pretrained=tmp_path / "source", lora=False)
    folder = write_llava_folder(parts, tmp_path / "llava")
    assert AutoTokenizer.from_pretrained(folder).eos_token == "</s>"


def test_the_folder_is_complete_and_leaves_the_parts_as_they_are(make, tmp_path) -> None:
    parts, _ = make("pad")
    before = {n: t.clone() for n, t in parts.language.state_dict().items()}
    teachers = [Terms("depth", "depth_anything", "CC-BY-NC-4.0", False, "photos")]
    folder = write_llava_folder(
        parts, tmp_path / "llava", title="A talker", teachers=teachers, licence="other"
    )
    assert all(torch.equal(t, before[n]) for n, t in parts.language.state_dict().items())
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["patch_size"] == 8
    assert processor["num_additional_image_tokens"] == 1
    assert processor["vision_feature_select_strategy"] == "default"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "license: other" in card
    assert "| depth | depth_anything | CC-BY-NC-4.0 | no | photos |" in card
    assert "vision_feature_layer=-1" in card
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    assert {name.split(".")[0] for name in names} == {
        "language_model",
        "multi_modal_projector",
        "vision_tower",
    }
    assert oct(folder.stat().st_mode)[-3:] != "700"
    assert os.listdir(tmp_path) == ["llava"]


def test_weights_can_be_written_in_another_dtype(make, tmp_path) -> None:
    parts, _ = make("crop")
    folder = write_llava_folder(parts, tmp_path / "llava", dtype=torch.bfloat16)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_new_token_is_never_the_likeliest(make, photo, tmp_path) -> None:
    from transformers import LlavaForConditionalGeneration

    parts, _ = make("crop", lora=False)
    folder = write_llava_folder(parts, tmp_path / "llava")
    stock = LlavaForConditionalGeneration.from_pretrained(folder)
    ids = torch.randint(3, 200, (4, 50))
    with torch.no_grad():
        logits = stock(input_ids=ids).logits
    image = stock.config.image_token_id
    assert logits.shape[-1] == image + 1
    torch.testing.assert_close(logits[..., image], logits[..., :image].mean(-1))


def some() -> nn.Parameter:
    return nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda parts, path: (path / "llava/x").mkdir(parents=True), "is not empty"),
        (
            lambda parts, path: parts.encoder.register_parameter("lora_A", some()),
            "fold them in first",
        ),
        (lambda parts, path: object.__setattr__(parts, "grids", [(1, 2)]), "'anyres' needs"),
        (lambda parts, path: object.__setattr__(parts, "view", "anyres"), "'anyres' needs"),
        (
            lambda parts, path: parts.language.lm.lm_head.register_parameter("bias", some()),
            "has a bias",
        ),
    ],
)
def test_what_is_no_llava_is_refused(make, tmp_path, change, told) -> None:
    parts, _ = make("crop")
    change(parts, tmp_path)
    with pytest.raises(ConfigError, match=told):
        write_llava_folder(parts, tmp_path / "llava")


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("gemma2", dict(head_dim=8, final_logit_softcapping=3.0)),
        ("granite", dict(logits_scaling=8)),
    ],
)
def test_a_cap_or_scale_on_the_logits_is_refused_before_training(
    make, chat_folder, tmp_path, kind, own
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_folder)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer) + 8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        **own,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    parts, _ = make("crop", lora=False, pretrained=tmp_path)
    with pytest.raises(ConfigError, match="a scale or a cap on the logits"):
        check_parts(parts)


def test_a_folder_that_reads_back_otherwise_is_not_kept(make, tmp_path, monkeypatch) -> None:
    parts, _ = make("crop")
    told = llava_folder.vision_state
    with monkeypatch.context() as patch:
        patch.setattr(
            llava_folder,
            "vision_state",
            lambda tower: {n.replace("vision_model.", "eye."): t for n, t in told(tower).items()},
        )
        with pytest.raises(ConfigError, match=r"finds .* missing_keys"):
            write_llava_folder(parts, tmp_path / "llava")
    with monkeypatch.context() as patch:
        patch.setattr(
            llava_folder,
            "vision_state",
            lambda tower: {n: t + 0.01 for n, t in told(tower).items()},
        )
        with pytest.raises(ConfigError, match="gives other logits"):
            write_llava_folder(parts, tmp_path / "llava")
    assert os.listdir(tmp_path) == []
