"""timm's models give the tokens that timm gives, from timm's own files."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_for_hf
from torch import nn

from tove_plugins import ExpertBuildError, build_expert, resolve_expert

SIZE = 160  # of timm's test models


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def save(tmp_path):
    """Save a random timm model as timm's hub has them; give it and its folder."""

    def write(name, **options):
        torch.manual_seed(0)
        model = timm.create_model(name, **options).eval()
        for module in model.modules():  # or a norm that is not run would not be missed
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
        folder = tmp_path / name
        save_for_hf(model, str(folder), safe_serialization=True)
        return model, folder

    return write


def pixels(size=SIZE):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def tokens_of(images, **config):
    """Build the expert and hold its tokens against the spec that a run plans with."""
    spec = resolve_expert("timm", **config)
    tokens = build_expert("timm", **config)(images)
    assert tokens.shape == (len(images), spec.tokens.num_tokens, spec.tokens.width)
    assert spec.image.size == tuple(images.shape[2:])
    return tokens


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit", "test_vit4", "eva02_tiny_patch14_224"])
def test_vits_give_their_final_patch_tokens(save, name):
    model, folder = save(name)
    assert model.num_prefix_tokens
    images = pixels(model.pretrained_cfg["input_size"][1])
    expected = model.forward_features(images)[:, model.num_prefix_tokens :]
    torch.testing.assert_close(tokens_of(images, weights=folder), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("layer", [None, 1])
def test_hierarchical_models_give_the_maps_of_features_only(save, name, layer):
    model, folder = save(name)
    maps = timm.create_model(name, features_only=True).eval()
    names = {key.replace(".", "_", 1): key for key in model.state_dict()}
    state = model.state_dict()
    own = {key: state[key if key in state else names[key]] for key in maps.state_dict()}
    maps.load_state_dict(own)
    expected = maps(pixels())[-1 if layer is None else layer].flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens_of(pixels(), weights=folder, layer=layer), expected)


@torch.no_grad()
def test_an_earlier_block_is_taken_before_the_norm_and_nothing_above_it_is_kept(save):
    model, folder = save("test_vit")
    (expected,) = model.forward_intermediates(pixels(), indices=[2], intermediates_only=True)
    tokens = tokens_of(pixels(), weights=folder, layer=2)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))
    assert len(build_expert("timm", weights=folder, layer=2).tower.net.blocks) == 3


@torch.no_grad()
def test_another_image_size_interpolates_positions_as_timm_does(save):
    model, folder = save("test_vit")
    model.set_input_size((192, 128))
    images = torch.randn(1, 3, 192, 128)
    tokens = tokens_of(images, weights=folder, image_size=(192, 128))
    torch.testing.assert_close(tokens, model.forward_features(images)[:, 1:])


@torch.no_grad()
def test_a_file_needs_its_models_name(save, tmp_path):
    model, _ = save("test_vit")
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    tokens = tokens_of(pixels(), weights=file, model="test_vit")
    torch.testing.assert_close(tokens, model.forward_features(pixels())[:, 1:])
    with pytest.raises(ExpertBuildError, match="give `model`"):
        resolve_expert("timm", weights=file)
    with pytest.raises(ExpertBuildError, match="cannot build 'test_resnet' with the weights"):
        build_expert("timm", weights=file, model="test_resnet")


def test_any_published_model_is_planned_without_its_weights():
    spec = resolve_expert("timm", model="vit_small_patch14_reg4_dinov2.lvd142m")
    assert (spec.tokens.width, spec.tokens.grid) == (384, (37, 37))
    assert spec.image.size == (518, 518)
    assert spec.image.mean == (0.485, 0.456, 0.406)
    assert spec.weights.source == "hub:timm/vit_small_patch14_reg4_dinov2.lvd142m/model.safetensors"
    assert (spec.weights.licence, spec.weights.commercial_use) == ("Apache-2.0", True)
    resnet = resolve_expert("timm", model="resnet18.a1_in1k", layer=-2, image_size=96)
    assert (resnet.tokens.width, resnet.tokens.grid) == (256, (6, 6))
    fcmae = resolve_expert("timm", model="convnextv2_atto.fcmae").weights
    assert (fcmae.licence, fcmae.commercial_use) == ("cc-by-nc-4.0", False)


def test_the_static_spec_is_that_of_its_weights():
    static = resolve_expert("timm")
    found = resolve_expert("timm", model="vit_base_patch16_224.augreg2_in21k_ft_in1k")
    assert (found.tokens, found.image) == (static.tokens, static.image)
    assert found.weights.source == static.weights.source
    assert found.weights.licence == static.weights.licence


def test_a_trainers_init_weights_leaves_the_tower_alone(save):
    _, folder = save("test_vit")
    expert = build_expert("timm", weights=folder)
    before = {name: p.clone() for name, p in expert.named_parameters()}
    for child in expert.children():
        child.init_weights()
    assert all(torch.equal(p, before[name]) for name, p in expert.named_parameters())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model": "vit_bse_patch16_224"}, r"no model 'vit_bse_patch16_224'.*vit_base_patch16_224"),
        ({"model": "test_vit.nowhere"}, "no weights 'nowhere' of 'test_vit'; it has r160_in1k"),
        ({"model": "test_vit", "layer": 6}, "layer is 6.*from -6 to 5"),
        ({"model": "mixer_b16_224", "image_size": 256}, r"takes images of \(224, 224\) only"),
        ({"model": "coatnet_nano_cc_224"}, "publishes no weights"),
        ({"model": "resnet18", "tower": {"depth": 1}}, "cannot build 'resnet18'"),
        ({"patch": 3}, "patch"),
    ],
)
def test_wrong_options_are_sentences(config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert("timm", **config)


def test_a_folder_of_another_kind_is_refused(save, tmp_path):
    _, folder = save("test_vit")
    with pytest.raises(ExpertBuildError, match="holds timm's 'test_vit', but `model`"):
        resolve_expert("timm", weights=folder, model="test_resnet")
    (tmp_path / "other").mkdir()
    with pytest.raises(ExpertBuildError, match="names no architecture"):
        resolve_expert("timm", weights=tmp_path / "other")
