"""CLIP through open_clip: the weights' own activation, every token in every mode."""

import json

import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from safetensors.torch import save_file
from torch import nn

from tove.backbones.clip.encoder import OpenCLIP
from tove.errors import ConfigError

NAME = "ViT-tiny-8"
TOWER = {"width": 32, "layers": 2}
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {**TOWER, "head_width": 8, "patch_size": 8, "image_size": 32},
    "text_cfg": {**TOWER, "heads": 4, "context_length": 12, "vocab_size": 99},
}


def _weights(folder, **options):
    torch.manual_seed(0)
    model = open_clip.CLIP(**{**CONFIG, **options})
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model.eval()


def _folder(folder, vision=(), **options):
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], **dict(vision)}, **options}
    _weights(folder, vision_cfg=config["vision_cfg"])
    statistics = {"mean": [0.4] * 3, "std": [0.3] * 3}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": statistics})
    (folder / "open_clip_config.json").write_text(text)
    return str(folder)


@pytest.fixture
def known(monkeypatch, tmp_path):
    """A tiny architecture and its tags, as open_clip knows its own."""
    for name, quick in ((NAME, False), (f"{NAME}-quickgelu", True)):
        config = {**CONFIG, "quick_gelu": True} if quick else CONFIG
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)
        tags = {"openai": {"quick_gelu": True}, "laion": {"hf_hub": "laion/"}}
        monkeypatch.setitem(pretrained._PRETRAINED, name, tags)
    _weights(tmp_path / "cache")
    file = str(tmp_path / "cache/open_clip_model.safetensors")
    monkeypatch.setattr(factory, "download_pretrained", lambda *a, **k: file)


def _is_quick(encoder):
    return isinstance(encoder.visual.transformer.resblocks[0].mlp.gelu, open_clip.model.QuickGELU)


def test_tokens_and_class_token_are_the_librarys(tmp_path):
    folder = _folder(tmp_path / "clip")
    encoder = OpenCLIP(folder, layer=-2)
    images = torch.rand(2, 3, 32, 32)
    visual = open_clip.create_model(f"local-dir:{folder}").visual.eval()
    options = dict(indices=[0], output_fmt="NLC", output_extra_tokens=True)
    found = visual.forward_intermediates(encoder.preprocess(images), **options)
    tokens, prefix = found["image_intermediates"][0], found["image_intermediates_prefix"][0]
    torch.testing.assert_close(encoder(images), tokens)
    torch.testing.assert_close(encoder.encode(images), torch.cat([prefix, tokens], 1))
    assert encoder.has_class_token
    assert len(list(encoder.hidden_states(images))) == 2
    assert [type(a) for a in encoder.attentions()] == [nn.MultiheadAttention]


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion", False)])
def test_a_tag_brings_its_activation(known, tag, quick):
    assert _is_quick(OpenCLIP(tag, model=NAME)) == quick


def test_weights_of_another_activation_than_the_architectures_are_refused(known):
    with pytest.raises(ConfigError, match=r"has QuickGELU, but the weights 'laion' .* plain GELU"):
        OpenCLIP("laion", model=f"{NAME}-quickgelu")
    assert _is_quick(OpenCLIP("openai", model=f"{NAME}-quickgelu"))


def test_a_weights_file_is_known_by_its_config_or_its_name(known, tmp_path):
    _weights(tmp_path / "hub")
    file = tmp_path / "hub/open_clip_model.safetensors"
    assert not _is_quick(OpenCLIP(str(file), model=NAME))
    assert _is_quick(OpenCLIP(str(file), model=NAME, quick_gelu=True))
    (tmp_path / "hub/open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": true}}')
    assert _is_quick(OpenCLIP(str(file), model=NAME))
    named = tmp_path / "vit_tiny_openai.safetensors"
    named.write_bytes(file.read_bytes())
    assert _is_quick(OpenCLIP(str(named), model=NAME))


def test_a_forced_activation_goes_into_the_export(known, tmp_path):
    encoder = OpenCLIP("openai", model=NAME)
    out = encoder.export(tmp_path / "out")
    config = json.loads((out / "open_clip/open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True
    assert json.loads((out / "config.json").read_text())["vision_config"]["hidden_act"] == (
        "quick_gelu"
    )
    images = torch.rand(1, 3, 32, 32)
    again = OpenCLIP(**encoder.read_export(out))
    torch.testing.assert_close(again(images), encoder(images))


def test_patch_dropout_drops_nothing_here(tmp_path):
    encoder = OpenCLIP(_folder(tmp_path / "clip", vision={"patch_dropout": 0.5})).train()
    images = torch.rand(1, 3, 32, 32)
    assert encoder(images).shape == (1, 16, 32)
    torch.testing.assert_close(encoder(images), encoder.eval()(images))


def test_an_unknown_architecture_is_a_sentence():
    with pytest.raises(ConfigError, match="it knows no architecture 'ViT-Z-99'"):
        OpenCLIP("openai", model="ViT-Z-99")
