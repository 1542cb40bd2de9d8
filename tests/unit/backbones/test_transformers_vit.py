"""SigLIP and DINO as encoders: the library's tokens, trained where they depend, exported whole."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from tove.backbones.transformers_vit import TransformersViT
from tove.errors import ConfigError
from tove.registry import ENCODERS

TOWER = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8
)
KINDS = {
    "siglip_vision_model": dict(TOWER, intermediate_size=48),
    "dinov2": dict(TOWER, mlp_ratio=2, drop_path_rate=0.5),
    "dinov2_with_registers": dict(TOWER, mlp_ratio=2, use_swiglu_ffn=True),
    "dinov3_vit": dict(TOWER, intermediate_size=48, pos_embed_shift=0.5, pos_embed_rescale=2.0),
}
PREFIX = {"siglip_vision_model": 0, "dinov2": 1, "dinov2_with_registers": 5, "dinov3_vit": 5}


def _config(kind):
    options = dict(KINDS[kind], num_register_tokens=4) if PREFIX[kind] == 5 else KINDS[kind]
    return AutoConfig.for_model(kind, **options)


def _random(model):
    torch.manual_seed(0)
    for parameter in model.parameters():  # none at a start that hides its part
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    def write(kind):
        folder = tmp_path_factory.mktemp(kind)
        _random(AutoModel.from_config(_config(kind))).save_pretrained(folder)
        return str(folder)

    return write


def images(side=32):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def stock_tokens(folder, pixels, block, kind):
    """What leaves a block when the library runs the model from its folder."""
    model = AutoModel.from_pretrained(folder).eval()
    read = []
    layers = [m for n, m in model.named_modules() if n.endswith((".layer", ".layers", "layer"))]
    layers[0][block].register_forward_hook(lambda m, i, out: read.append(out))
    model(pixels)
    found = read[0] if isinstance(read[0], torch.Tensor) else read[0][0]
    return found[:, PREFIX[kind] :]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "block"), [(-1, 2), (2, 1)])
def test_tokens_are_the_librarys(save, kind, layer, block):
    folder = save(kind)
    encoder = TransformersViT(folder, layer=layer)
    expected = stock_tokens(folder, encoder.preprocess(images()), block, kind)
    torch.testing.assert_close(encoder(images()), expected)
    assert (encoder.width, encoder.grid, encoder.image_size) == (32, (4, 4), 32)
    with_class = encoder.encode(images())
    assert with_class.shape[1] == 16 + encoder.has_class_token
    torch.testing.assert_close(with_class[:, int(encoder.has_class_token) :], expected)
    assert len(list(encoder.attentions())) == len(list(encoder.blocks()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_counts_as_used_is_what_gets_a_gradient(save, kind):
    encoder = TransformersViT(save(kind), layer=-2).train()
    encoder(images()).square().sum().backward()
    trained = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert {name for name, _ in encoder.used_parameters()} == trained


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_train_mode_gives_the_same_tokens(save, kind):
    encoder = TransformersViT(save(kind)).train()
    torch.testing.assert_close(encoder(images()), encoder.eval()(images()))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [32, 48])
def test_a_trained_encoder_is_exported_in_its_librarys_format(save, kind, side, tmp_path):
    encoder = TransformersViT(save(kind), image_size=side)
    for parameter in encoder.parameters():
        parameter.add_(0.05)
    folder = encoder.export(tmp_path / "out")
    again = TransformersViT(**encoder.read_export(folder), image_size=side)
    torch.testing.assert_close(again(images(side)), encoder(images(side)))
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=True)
    pixels = processor(torch.rand(3, 60, 60) * 255, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, side, side)
    expected = stock_tokens(folder, encoder.preprocess(images(side)), 2, kind)
    torch.testing.assert_close(expected, encoder(images(side)))
    assert json.loads((folder / "export.json").read_text())["zero_shot"] == []


def test_siglips_text_tower_goes_along(tmp_path):
    text = dict(TOWER, intermediate_size=48, vocab_size=50, max_position_embeddings=8)
    text = {name: value for name, value in text.items() if name not in ("image_size", "patch_size")}
    vision = KINDS["siglip_vision_model"]
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    source = _random(transformers.SiglipModel(config))
    source.save_pretrained(tmp_path / "source")
    encoder = TransformersViT(str(tmp_path / "source"))
    folder = encoder.export(tmp_path / "out")
    again, loaded = transformers.SiglipModel.from_pretrained(folder, output_loading_info=True)
    assert not loaded["missing_keys"]
    inputs = {"input_ids": torch.tensor([[3, 4, 5]]), "pixel_values": torch.rand(1, 3, 32, 32)}
    found, expected = again.eval()(**inputs), source(**inputs)
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image)


@pytest.mark.parametrize("kind", KINDS)
def test_lora_finds_its_layers(save, kind):
    encoder = TransformersViT(save(kind)).requires_grad_(False)
    names = [
        f"{block}.{name}"
        for block, module in encoder.blocks()
        for name, _ in module.named_modules()
        if name.rpartition(".")[2] in encoder.lora_targets
    ]
    inject_adapter_in_model(LoraConfig(target_modules=names), encoder)
    assert len(names) >= 3 * 6
    with pytest.raises(ConfigError, match="LoRA"):
        encoder.export("/nowhere")


def test_other_models_are_refused_in_a_sentence(clip_folder, save):
    assert ENCODERS.get("TransformersViT") is TransformersViT
    with pytest.raises(ConfigError, match="A CLIP goes with TransformersCLIP"):
        TransformersViT(clip_folder)
    with pytest.raises(ConfigError, match="use a multiple of 8"):
        TransformersViT(save("dinov2"), image_size=30)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_half(save, kind):
    encoder = TransformersViT(save(kind)).bfloat16()
    assert encoder(images()).dtype == torch.bfloat16
