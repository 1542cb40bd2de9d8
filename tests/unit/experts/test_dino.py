"""DINOv2, DINOv2 with registers and DINOv3 give the patch tokens that transformers gives."""

import pytest
import torch
import transformers
from torch import nn

from tove_plugins import ExpertBuildError, build_expert, resolve_expert

DINOV2, REGISTERS, DINOV3 = "dinov2_small", "dinov2_small_reg", "dinov3_vits16"
EXPERTS = (DINOV2, REGISTERS, DINOV3)
CLASSES = {DINOV2: "Dinov2", REGISTERS: "Dinov2WithRegisters", DINOV3: "DINOv3ViT"}
NUM_PREFIX = {DINOV2: 1, REGISTERS: 1 + 3, DINOV3: 1 + 3}  # the class token and registers
PATCH = {DINOV2: 14, REGISTERS: 14, DINOV3: 16}
BLOCKS = 3


@pytest.fixture
def save(tmp_path):
    """Save a random model as transformers does; give it and its folder."""

    def write(name):
        torch.manual_seed(0)
        config = getattr(transformers, CLASSES[name] + "Config")(
            hidden_size=32,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=8 * PATCH[name],
            patch_size=PATCH[name],
            **({} if name == DINOV2 else {"num_register_tokens": 3}),
        )
        model = getattr(transformers, CLASSES[name] + "Model")(config).eval()
        for parameter in model.parameters():  # none at a start that hides its part
            nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return write


def pixels(name, rows=6, columns=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, rows * PATCH[name], columns * PATCH[name], generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("name", EXPERTS)
def test_last_layer_is_the_librarys_without_class_token_and_registers(save, name):
    model, folder = save(name)
    images = pixels(name)
    expert = build_expert(name, weights=folder, image_size=images.shape[2:])
    expected = model(images).last_hidden_state[:, NUM_PREFIX[name] :]
    tokens = expert(images)
    assert tokens.shape == (2, 24, 32)
    torch.testing.assert_close(tokens, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("layer", [0, 2, -2, -BLOCKS - 1])
def test_an_earlier_layer_goes_through_the_final_norm_and_later_blocks_are_gone(save, name, layer):
    model, folder = save(name)
    images = pixels(name)
    expert = build_expert(name, weights=folder, layer=layer)
    hidden = model(images, output_hidden_states=True).hidden_states[layer]
    norm = model.norm if name == DINOV3 else model.layernorm
    torch.testing.assert_close(expert(images), norm(hidden)[:, NUM_PREFIX[name] :])
    of_a_block = "layer_scale1.lambda1"
    assert sum(of_a_block in key for key in expert.state_dict()) == layer % (BLOCKS + 1)


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, -1])
def test_layers_are_those_of_the_librarys_backbone(save, layer):
    _, folder = save(DINOV2)
    images = pixels(DINOV2)
    backbone = transformers.Dinov2Backbone.from_pretrained(folder, out_indices=[layer]).eval()
    (map_BDhw,) = backbone(images).feature_maps
    tokens = build_expert(DINOV2, weights=folder, layer=layer)(images)
    torch.testing.assert_close(tokens, map_BDhw.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_dinov3_keeps_its_positions_exact_in_bfloat16(save):
    model, folder = save(DINOV3)
    images = pixels(DINOV3).bfloat16()
    # The library casts the model while it loads, and leaves the frequencies in float32.
    half = transformers.DINOv3ViTModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert half.rope_embeddings.inv_freq.dtype == torch.float32
    expert = build_expert(DINOV3, weights=folder).to(torch.bfloat16)
    for ours, theirs in zip(
        expert.model.rope_embeddings(images), half.rope_embeddings(images), strict=True
    ):
        assert torch.equal(ours, theirs)
    expected = half(images).last_hidden_state[:, NUM_PREFIX[DINOV3] :]
    assert torch.equal(expert(images), expected)
    plain = model.bfloat16()  # rounds them, which is what the expert must not do
    assert not torch.equal(plain.rope_embeddings(images)[0], half.rope_embeddings(images)[0])


@pytest.mark.parametrize("name", EXPERTS)
def test_the_weights_folder_says_width_and_grid_and_how_images_are_normalised(save, name):
    _, folder = save(name)
    assert resolve_expert(name, weights=folder).image == resolve_expert(name).image
    transformers.BitImageProcessor(
        size={"shortest_edge": 518}, crop_size=518, image_mean=[0.1] * 3, image_std=[0.2] * 3
    ).save_pretrained(folder)
    spec = resolve_expert(name, weights=folder, image_size=(PATCH[name] * 5, PATCH[name] * 7))
    assert (spec.tokens.width, spec.tokens.grid) == (32, (5, 7))
    assert (spec.image.mean, spec.image.std) == ((0.1,) * 3, (0.2,) * 3)
    assert resolve_expert(name, weights=folder).image.size == resolve_expert(name).image.size


@pytest.mark.parametrize("name", ["dinov2_large", "dinov3_vitl16"])
def test_a_larger_image_needs_no_weights_to_be_planned(name):
    default = resolve_expert(name)
    spec = resolve_expert(name, image_size=[side * 2 for side in default.image.size])
    assert spec.tokens.grid == (32, 32)
    assert spec.tokens.width == default.tokens.width == 1024


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"layer": 13}, r"layer=13 is not there: the model has 12 blocks.*-1 to -13"),
        ({"layer": -14}, "layer=-14 is not there"),
        ({"image_size": (224, 230)}, r"224 x 230 .* patches of 14; give image_size=\(224, 224\)"),
        ({"image_size": "large"}, "one side or"),
        ({"layers": 2}, "layers"),
    ],
)
def test_wrong_options_are_sentences(config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert(DINOV2, **config)


def test_other_weights_are_refused_by_name(save, tmp_path):
    _, folder = save(REGISTERS)
    sentence = "is of model_type 'dinov2_with_registers', and this expert takes 'dinov2'"
    for ask in (resolve_expert, build_expert):
        with pytest.raises(ExpertBuildError, match=sentence):
            ask(DINOV2, weights=folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpertBuildError, match=r"holds no config\.json"):
        build_expert(DINOV2, weights=tmp_path / "empty")


def test_weights_cut_short_are_refused(save):
    model, folder = save(DINOV2)
    state = {key: value for key, value in model.state_dict().items() if "layer.1." not in key}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ExpertBuildError, match="would stay random"):
        build_expert(DINOV2, weights=folder)
