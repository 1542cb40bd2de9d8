"""Depth Anything and DPT expose what the networks of transformers compute, and nothing else."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from tove_plugins import ExpertBuildError, build_expert, resolve_expert

ANYTHING, DPT, HYBRID = "depth_anything_v2_small", "dpt_large", "dpt_hybrid_midas"
KINDS = ["depth_anything", "dpt", "dpt_hybrid", "dpt_dinov2"]
EXPERTS = dict(zip(KINDS, (ANYTHING, DPT, HYBRID, DPT), strict=True))
SIDE = {"depth_anything": 56, "dpt": 64, "dpt_hybrid": 64, "dpt_dinov2": 56}
PATCH = {"depth_anything": 14, "dpt": 16, "dpt_hybrid": 16, "dpt_dinov2": 14}
DINOV2 = {
    "model_type": "dinov2",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "reshape_hidden_states": False,
}
DECODER = {"neck_hidden_sizes": [8, 12, 16], "fusion_hidden_size": 20}
VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "backbone_out_indices": [0, 1, 2],
    "reassemble_factors": [2, 1, 0.5],
    "image_size": 64,
}
BIT = {
    "layer_type": "bottleneck",
    "global_padding": "same",
    "embedding_dynamic_padding": True,
    "depths": [1, 1, 1],
    "embedding_size": 32,
    "num_groups": 2,
    "hidden_sizes": [8, 16, 24],
    "out_features": ["stage1", "stage2", "stage3"],
}


def config_of(kind):
    if kind == "depth_anything":
        return transformers.DepthAnythingConfig(
            backbone_config=transformers.Dinov2Config(**DINOV2, out_indices=[1, 2, 3]),
            reassemble_hidden_size=24,
            reassemble_factors=[2, 1, 0.5],
            head_hidden_size=8,
            patch_size=14,
            **DECODER,
        )
    if kind == "dpt_dinov2":
        backbone = {**DINOV2, "out_indices": [1, 2, 3]}
        factors = VIT["reassemble_factors"]
        return transformers.DPTConfig(
            backbone_config=backbone, reassemble_factors=factors, **DECODER
        )
    hybrid = {
        "is_hybrid": True,
        "backbone_config": BIT,
        "backbone_featmap_shape": [1, 24, 4, 4],
        "reassemble_factors": [1, 1, 1, 0.5],
        "backbone_out_indices": [0, 0, 1, 2],  # the first two stand for BiT's stages
        "neck_hidden_sizes": [8, 16, 16, 16],
    }
    own = hybrid if kind == "dpt_hybrid" else {}
    return transformers.DPTConfig(**{**VIT, **DECODER, **own})


@pytest.fixture
def save(tmp_path):
    """Save a random model as transformers does; give it and its folder."""

    def write(kind):
        torch.manual_seed(0)
        config = config_of(kind)
        name = "DepthAnything" if kind == "depth_anything" else "DPT"
        model = getattr(transformers, name + "ForDepthEstimation")(config).eval()
        for key, parameter in model.named_parameters():  # none at a start that hides its part
            nn.init.normal_(parameter, std=0.2)
            if "head" in key:
                parameter.data.abs_()  # a depth that the last ReLU lets through
        model.save_pretrained(tmp_path / kind)
        return model, tmp_path / kind

    return write


def pixels(kind, rows=None, columns=None):
    sides = [(count or SIDE[kind] // PATCH[kind]) * PATCH[kind] for count in (rows, columns)]
    return torch.randn(2, 3, *sides, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def read_by(model, part, images):
    """Give what came into a part of the library's own model."""
    received = []
    handle = part.register_forward_hook(lambda _, given, out: received.append(given))
    model(images)
    handle.remove()
    return received[0][0]


def build(kind, folder, images, **options):
    """Build the expert and see that its spec says what it gives."""
    options = {"weights": folder, "image_size": images.shape[2:], **options}
    spec = resolve_expert(EXPERTS[kind], **options)
    with torch.no_grad():
        tokens = build_expert(EXPERTS[kind], **options)(images)
    assert tokens.shape == (len(images), spec.tokens.num_tokens, spec.tokens.width)
    return tokens, spec


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_is_the_map_that_the_head_reads(save, kind):
    model, folder = save(kind)
    images = pixels(kind)
    fused_BDhw = read_by(model, model.head, images)[-1]
    tokens, spec = build(kind, folder, images)
    grid = SIDE[kind] // PATCH[kind]
    expected = F.adaptive_avg_pool2d(fused_BDhw, grid).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected)
    assert fused_BDhw.shape[2] >= 2 * grid
    assert (spec.tokens.width, spec.tokens.kind) == (20, "features")


@pytest.mark.parametrize("kind", KINDS)
def test_the_backbone_is_the_last_state_that_the_decoder_reads(save, kind):
    model, folder = save(kind)
    images = pixels(kind)
    last_BTP = read_by(model, model.neck, images)[-1]
    tokens, spec = build(kind, folder, images, features="backbone")
    torch.testing.assert_close(tokens, last_BTP[:, 1:])
    assert (spec.tokens.width, spec.tokens.kind) == (24, "features")


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_the_predicted_depth_up_to_scale_and_shift(save, kind):
    model, folder = save(kind)
    images = pixels(kind)
    stride = PATCH[kind] // 2
    tokens, spec = build(kind, folder, images, features="map", stride=stride)
    grid = SIDE[kind] // stride
    depth_BN1 = F.adaptive_avg_pool2d(model(images).predicted_depth.unsqueeze(1), grid)
    depth_BN1 = depth_BN1.flatten(2).transpose(1, 2)
    assert (depth_BN1.std(dim=1) > 1e-3).all(), "a flat depth would show nothing"
    centred = depth_BN1 - depth_BN1.median(dim=1, keepdim=True).values
    torch.testing.assert_close(tokens, centred / centred.abs().mean(dim=1, keepdim=True))
    assert (spec.tokens.width, spec.tokens.grid, spec.tokens.kind) == (1, (grid, grid), "map")


@torch.no_grad()
def test_the_map_of_an_image_without_depth_is_zero(save):
    model, folder = save("depth_anything")
    model.head.conv3.bias.fill_(-1e4)  # behind it is a ReLU
    model.save_pretrained(folder)
    tokens, _ = build("depth_anything", folder, pixels("depth_anything"), features="map")
    assert not tokens.any()


@pytest.mark.parametrize("kind", ["depth_anything", "dpt_dinov2"])
def test_images_need_not_be_square(save, kind):
    model, folder = save(kind)
    images = pixels(kind, 6, 4)
    tokens, spec = build(kind, folder, images)
    assert spec.tokens.grid == (6, 4)
    fused_BDhw = read_by(model, model.head, images)[-1]
    expected = F.adaptive_avg_pool2d(fused_BDhw, (6, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected)


@pytest.mark.parametrize("kind", ["dpt", "dpt_hybrid"])
def test_dpts_own_trunk_interpolates_its_positions(save, kind):
    model, folder = save(kind)
    images = pixels(kind, 6, 6)
    model.dpt.embeddings.image_size = images.shape[2:]  # the library's check of the hybrid alone
    tokens, _ = build(kind, folder, images, features="backbone")
    torch.testing.assert_close(tokens, read_by(model, model.neck, images)[-1][:, 1:])


@pytest.mark.parametrize("kind", ["depth_anything", "dpt"])
@pytest.mark.parametrize("features", ["decoder", "backbone"])
def test_what_lies_behind_the_features_is_not_kept(save, kind, features):
    _, folder = save(kind)
    keys = build_expert(EXPERTS[kind], weights=folder, features=features).state_dict()
    assert not any("head" in key for key in keys)
    assert any("neck" in key for key in keys) == (features == "decoder")


@pytest.mark.parametrize("kind", ["depth_anything", "dpt"])
def test_published_files_without_the_layer_that_never_runs_load(save, kind):
    model, folder = save(kind)
    whole = model.state_dict()
    state = {key: value for key, value in whole.items() if "layers.0.residual_layer1" not in key}
    assert len(state) < len(whole)
    model.save_pretrained(folder, state_dict=state)
    images = pixels(kind)
    tokens, _ = build(kind, folder, images)
    fused_BDhw = read_by(model, model.head, images)[-1]
    expected = F.adaptive_avg_pool2d(fused_BDhw, SIDE[kind] // PATCH[kind])
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))
    state = {key: value for key, value in whole.items() if "layers.1.residual_layer1" not in key}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ExpertBuildError, match="would stay random"):
        build_expert(EXPERTS[kind], weights=folder)


def test_the_weights_folder_says_how_images_are_made(save):
    _, folder = save("dpt")
    assert resolve_expert(DPT, weights=folder).image == resolve_expert(DPT).image
    size = {"height": 128, "width": 128}
    transformers.DPTImageProcessor(size=size, image_mean=[0.1] * 3).save_pretrained(folder)
    spec = resolve_expert(DPT, weights=folder)
    assert (spec.image.size, spec.image.mean, spec.tokens.grid) == ((128, 128), (0.1,) * 3, (8, 8))


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        (ANYTHING, {"features": "depth"}, "exposes 'decoder', 'backbone', 'map'"),
        (
            ANYTHING,
            {"image_size": 512},
            r"512 x 512 .* patches of 14; give image_size=\(518, 518\)",
        ),
        (ANYTHING, {"stride": 15}, "518 x 518 pixels does not divide into tokens of stride 15"),
        (ANYTHING, {"stride": 0}, "give a whole number of pixels"),
        (DPT, {"image_size": (384, 320)}, "square images only"),
    ],
)
def test_wrong_options_are_sentences(name, config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert(name, **config)


def test_other_weights_are_refused_by_name(save, tmp_path):
    _, folder = save("dpt")
    with pytest.raises(ExpertBuildError, match=r"model_type 'dpt', .* takes 'depth_anything'"):
        build_expert(ANYTHING, weights=folder)
    backbone = transformers.Swinv2Config(out_indices=[1, 2, 3, 4])
    transformers.DPTConfig(backbone_config=backbone).save_pretrained(tmp_path)
    with pytest.raises(ExpertBuildError, match=r"backbone of model_type 'swinv2'.*dinov2 and beit"):
        resolve_expert(DPT, weights=tmp_path)
