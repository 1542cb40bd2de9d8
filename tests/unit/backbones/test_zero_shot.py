"""An export's text tower finds the images that its source's found, in both libraries."""

import json
import shutil

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPModel, CLIPVisionModel, SiglipConfig, SiglipModel

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.backbones.clip.export import export_encoder
from tove.backbones.clip.retrieval import ZeroShot, recall_at_1, retrieval_of_export, zero_shot
from tove.backbones.tokenizer_files import write_tokenizer
from tove.backbones.transformers_vit import TransformersViT
from tove.backbones.vit import locate
from tove.data.tiny_world.rendered import TRAIN_SEED, make_pool, seeded
from tove.data.tiny_world.text import bag_caption

TINY = "pkg:tove/assets/tiny_clip"


@pytest.fixture(scope="module")
def scenes():
    """Images that the tiny CLIP has not seen, with the captions it was trained on."""
    pool = make_pool(TRAIN_SEED + 1, 0, 128)
    captions = [bag_caption(things, seeded(0, row)) for row, things in enumerate(pool.things)]
    return pool.images.float() / 255, captions


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_encoder(TransformersCLIP(TINY), tmp_path_factory.mktemp("zero_shot") / "export")


def test_an_unmoved_export_retrieves_as_its_source_in_both_formats(scenes, exported):
    found = retrieval_of_export(TransformersCLIP(TINY), exported, *scenes)
    assert found["source"] == found["transformers"] == found["open_clip"]
    assert found["source"]["text_to_image"] > 20 * found["source"]["chance"]
    assert json.loads((exported / "export.json").read_text())["zero_shot"] == [
        "transformers",
        "open_clip",
    ]


def test_an_export_of_an_open_clip_source_retrieves_as_its_source(scenes, exported, tmp_path):
    encoder = OpenCLIP(str(exported / "open_clip"))
    folder = encoder.export(tmp_path / "again")
    found = retrieval_of_export(encoder, folder, *scenes)
    assert found["source"] == found["transformers"] == found["open_clip"]
    assert found["source"]["text_to_image"] > 20 * found["source"]["chance"]


def test_a_moved_image_tower_costs_retrieval(scenes, tmp_path):
    encoder = TransformersCLIP(TINY)
    torch.manual_seed(0)
    for parameter in encoder.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    found = retrieval_of_export(encoder, encoder.export(tmp_path / "moved"), *scenes)
    assert found["transformers"]["text_to_image"] < 0.5 * found["source"]["text_to_image"]


def test_a_source_whose_tokenizer_marks_no_end_is_mended_in_the_export(scenes, exported, tmp_path):
    shutil.copytree(locate(TINY), tmp_path / "source")
    file = tmp_path / "source/tokenizer.json"
    words = json.loads(file.read_text())
    file.write_text(json.dumps(words | {"post_processor": None}))  # as a language model's, unmarked
    captions = scenes[1][:64]
    stock = CLIPModel.from_pretrained(tmp_path / "source").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "source")(
        captions, return_tensors="pt", padding=True
    )
    assert len(stock.text_model(inputs.input_ids).pooler_output.unique(dim=0)) < 10
    encoder = TransformersCLIP(str(tmp_path / "source"))
    folder = encoder.export(tmp_path / "export")
    found = retrieval_of_export(encoder, folder, *scenes)
    assert found == retrieval_of_export(TransformersCLIP(TINY), exported, *scenes)


def test_stock_transformers_reads_the_whole_clip_and_its_vision_tower(scenes, exported):
    captions, pixels = scenes[1][:64], (scenes[0][:4] - 0.5) / 0.5
    clip = CLIPModel.from_pretrained(exported).eval()
    inputs = AutoTokenizer.from_pretrained(exported)(captions, return_tensors="pt", padding=True)
    assert set(inputs) == {"input_ids", "attention_mask"}
    logits = clip(**inputs, pixel_values=pixels).logits_per_image
    source = CLIPModel.from_pretrained(locate(TINY)).eval()
    expected = source(**inputs, pixel_values=pixels).logits_per_image
    torch.testing.assert_close(logits, expected)
    texts = clip.text_model(**inputs).pooler_output
    assert len(texts.unique(dim=0)) == len(set(captions))
    vision, loaded = CLIPVisionModel.from_pretrained(exported, output_loading_info=True)
    assert not loaded["missing_keys"]
    hidden = vision(pixels).last_hidden_state
    torch.testing.assert_close(hidden, source.vision_model(pixels).last_hidden_state)


def _open_clip_source(folder, **text):
    """Write a random open_clip CLIP with OpenAI's words."""
    tower = {"width": 32, "layers": 2}
    model_cfg = {
        "embed_dim": 24,
        "vision_cfg": {**tower, "head_width": 8, "patch_size": 8, "image_size": 32},
        "text_cfg": {**tower, "heads": 4, "context_length": 16, "vocab_size": 49408, **text},
    }
    torch.manual_seed(0)
    folder.mkdir()
    state = open_clip.CLIP(**model_cfg).state_dict()
    save_file(state, folder / "open_clip_model.safetensors")
    statistics = {"mean": [0.4] * 3, "std": [0.3] * 3}
    config = {"model_cfg": model_cfg, "preprocess_cfg": statistics}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return str(folder)


def test_open_clips_own_tokenizer_goes_into_the_transformers_folder(tmp_path):
    source = _open_clip_source(tmp_path / "source")
    folder = OpenCLIP(source).export(tmp_path / "export")
    captions = ["A red ball, two boxes!", "caf\u00e9 au lait - it's 7 o'clock", "dog"]
    ids = open_clip.get_tokenizer(f"local-dir:{source}")(captions)
    tokens = AutoTokenizer.from_pretrained(folder)(captions).input_ids
    for row, own in zip(ids.tolist(), tokens, strict=True):
        assert own == row[: len(own)]
        assert not any(row[len(own) :])
    ours, theirs = zero_shot(folder), zero_shot(OpenCLIP(source))
    torch.testing.assert_close(ours.texts(captions), theirs.texts(captions), atol=1e-5, rtol=1e-4)


def test_a_text_tower_that_transformers_has_not_stays_with_open_clip(tmp_path):
    source = _open_clip_source(tmp_path / "source", no_causal_mask=True)
    folder = OpenCLIP(source).export(tmp_path / "export")
    assert json.loads((folder / "export.json").read_text())["zero_shot"] == ["open_clip"]
    assert zero_shot(folder) is None
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["CLIPVisionModel"]


def test_siglips_export_retrieves_as_its_source(scenes, tmp_path):
    images, captions = scenes[0][:32], scenes[1][:32]
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    tokenizer = AutoTokenizer.from_pretrained(locate(TINY))
    text = dict(size, vocab_size=len(tokenizer), max_position_embeddings=24)
    vision = dict(size, image_size=64, patch_size=16)
    torch.manual_seed(0)
    source = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    source.save_pretrained(tmp_path / "source")
    write_tokenizer(tokenizer, tmp_path / "source")
    encoder = TransformersViT(str(tmp_path / "source"))
    folder = encoder.export(tmp_path / "export")
    found = retrieval_of_export(encoder, folder, images, captions)
    assert found["source"] == found["transformers"]
    how = dict(padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    ids = AutoTokenizer.from_pretrained(folder)(captions, **how).input_ids
    towers = zero_shot(folder)
    torch.testing.assert_close(towers.texts(captions), source.text_model(ids).pooler_output)
    assert len(towers.texts(captions).unique(dim=0)) == len(set(captions))
    pixels = (images - 0.5) / 0.5
    torch.testing.assert_close(towers.images(images), source.vision_model(pixels).pooler_output)


def test_recall_counts_a_shared_caption_for_each_of_its_images():
    towers = ZeroShot(
        images=lambda x: x, texts=lambda names: torch.eye(3)[[ord(n) - 97 for n in names]]
    )
    images = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0], [0, 0.2, 0.9]])
    found = recall_at_1(towers, images, ["a", "a", "c", "b"])
    assert found["image_to_text"] == pytest.approx(0.75)
    assert found["text_to_image"] == pytest.approx(1.0)
    assert found["chance"] == pytest.approx(6 / 16)
