"""CLIP as tokens: the stock libraries' hidden states, any input size, clear errors."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPVisionModel, ViTConfig, ViTModel

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.vit import resize_positions
from tove.errors import ConfigError


@pytest.mark.parametrize("layer", [-1, -2, 0, 1, -4])
def test_tokens_are_hidden_states_without_the_class_token(clip_folder, layer):
    encoder = TransformersCLIP(clip_folder, layer=layer)
    images = torch.rand(2, 3, 32, 32)
    stock = CLIPVisionModel.from_pretrained(clip_folder).eval()
    hidden = stock(encoder.preprocess(images), output_hidden_states=True).hidden_states[layer]
    torch.testing.assert_close(encoder(images), hidden[:, 1:])
    assert (encoder.width, encoder.grid, encoder.image_size) == (32, (4, 4), 32)


def test_blocks_above_the_layer_do_not_run_or_count_as_used(clip_folder):
    encoder = TransformersCLIP(clip_folder, layer=-2)
    used = dict(encoder.used_parameters())
    encoder(torch.rand(1, 3, 32, 32)).square().sum().backward()
    assert set(used) == {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert not any("layers.2" in name or "post_layernorm" in name for name in used)


def test_another_input_size_interpolates_positions(clip_folder):
    native, larger = TransformersCLIP(clip_folder), TransformersCLIP(clip_folder, image_size=64)
    assert larger.grid == (8, 8)
    images = torch.rand(1, 3, 50, 50)
    assert larger(images).shape == (1, 64, 32)
    stock = CLIPVisionModel.from_pretrained(clip_folder).eval()
    interpolated = stock(larger.preprocess(images), interpolate_pos_encoding=True)
    expected = interpolated.last_hidden_state[:, 1:]
    torch.testing.assert_close(larger(images), expected, atol=1e-5, rtol=1e-5)
    table = native.model.vision_model.embeddings.position_embedding.weight.data
    assert torch.equal(resize_positions(table, 4, 4), table)


def test_statistics_come_from_the_folder(clip_folder, tmp_path):
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    assert TransformersCLIP(str(tmp_path)).preprocess.mean.flatten()[0] == pytest.approx(0.48145466)
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], resample=2).save_pretrained(tmp_path)
    preprocess = TransformersCLIP(str(tmp_path)).preprocess
    assert preprocess.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert preprocess.interpolation == "bilinear"


def test_statistics_keep_their_digits_in_half_precision(clip_folder):
    encoder = TransformersCLIP(clip_folder).bfloat16()
    assert encoder.preprocess.mean.dtype == torch.float32
    assert encoder(torch.rand(1, 3, 32, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 50}, "patch size 8 .* does not divide; use a multiple of 8, such as 48"),
        ({"layer": 4}, "has 3 layers; use a value from -4 to 3"),
        ({"pretrained": "/nowhere/clip"}, "not a folder"),
        ({"pretrained": "./clip"}, "not a folder"),
        ({"pretrained": "pkg:tove_plugins/nothing"}, "not a folder"),
    ],
)
def test_mistakes_are_sentences(clip_folder, options, words):
    with pytest.raises(ConfigError, match=words):
        TransformersCLIP(**{"pretrained": clip_folder, **options})


def test_another_architecture_is_refused(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"not a whole CLIPVisionModel|could not be loaded"):
        TransformersCLIP(str(tmp_path))


def test_weights_under_the_names_of_a_later_version_are_told(clip_folder, tmp_path):
    model = CLIPVisionModel.from_pretrained(clip_folder)
    unknown = {f"later.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(unknown, tmp_path / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "99.0.1"}))
    with pytest.raises(ConfigError, match=r"saved by transformers 99\.0\.1, .* install that"):
        TransformersCLIP(str(tmp_path))


def test_the_class_token_and_each_blocks_input_can_be_had(clip_folder):
    encoder = TransformersCLIP(clip_folder)
    images = torch.rand(2, 3, 32, 32)
    stock = CLIPVisionModel.from_pretrained(clip_folder).eval()
    expected = stock(encoder.preprocess(images), output_hidden_states=True).hidden_states
    for found, hidden in zip(encoder.hidden_states(images), expected, strict=True):
        torch.testing.assert_close(found, hidden)
    torch.testing.assert_close(encoder.encode(images), expected[-1])
    assert encoder.has_class_token
    assert all(hasattr(attention, "q_proj") for attention in encoder.attentions())


def test_a_trained_students_own_dropout_stays_off(make_clip):
    encoder = TransformersCLIP(make_clip(attention_dropout=0.5)).train()
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(encoder(images), encoder.eval()(images))


@pytest.mark.parametrize(
    ("entries", "mean", "std", "white"),
    [
        ({"do_normalize": False}, 0.0, 1.0, 1.0),
        ({"image_mean": 0.5, "image_std": 0.25}, 0.5, 0.25, 1.0),
        ({"do_rescale": False, "image_mean": 127.5, "image_std": 64}, 127.5, 64.0, 255.0),
        ({"do_rescale": False, "image_mean": None}, 0.48145466 * 255, 0.26862954 * 255, 255.0),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_the_image_processors_file_is_believed(
    clip_folder, tmp_path, entries, mean, std, white, nested
):
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps({"image_processor": entries} if nested else entries))
    encoder = TransformersCLIP(str(tmp_path))
    seen = encoder.preprocess
    first = (seen.mean.flatten()[0].item(), seen.std.flatten()[0].item(), seen.high)
    assert first == pytest.approx((mean, std, white))
    # An export says the same in the one form that both libraries read.
    again = TransformersCLIP(str(encoder.export(tmp_path / "out")))
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(again(images), encoder(images), atol=1e-5, rtol=1e-5)


def test_a_broken_processor_file_is_a_sentence(clip_folder, tmp_path):
    CLIPModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        TransformersCLIP(str(tmp_path))
