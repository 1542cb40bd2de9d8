"""Any backbone of transformers gives the feature map that AutoBackbone gives."""

import pytest
import torch
import transformers
from torch import nn

from tove_plugins import ExpertBuildError, build_expert, resolve_expert

NAME = "transformers_backbone"
SIDE = 64
CONFIGS = {
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "convnextv2": {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "vitdet": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "beit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
}
PATCHES = {"vitdet": 16, "beit": 16, "dinov2": 16}
CLASSIFIERS = ["swin", "resnet", "dinov2"]
"""Models whose published files are an image classifier's."""


@pytest.fixture
def save(tmp_path):
    """Save a random model with its image processor, as transformers does; give its folder."""

    def write(kind, auto_class="AutoBackbone"):
        torch.manual_seed(0)
        patch = {"patch_size": PATCHES[kind]} if kind in PATCHES else {}
        config = transformers.AutoConfig.for_model(kind, image_size=SIDE, **CONFIGS[kind], **patch)
        model = getattr(transformers, auto_class).from_config(config)
        for parameter in model.parameters():  # none at a start that hides its part
            nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path)
        processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
        processor.save_pretrained(tmp_path)
        return tmp_path

    return write


def pixels(height=SIDE, width=SIDE):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def library(folder, images, stage, **settings):
    kind = type(transformers.AutoConfig.from_pretrained(folder))
    backbone_class = transformers.MODEL_FOR_BACKBONE_MAPPING[kind]
    backbone = backbone_class.from_pretrained(folder, out_indices=[stage], **settings)
    (map_BDhw,) = backbone.eval()(images).feature_maps
    return map_BDhw


@torch.no_grad()
@pytest.mark.parametrize("stage", [-1, 1])
@pytest.mark.parametrize("kind", CONFIGS)
def test_tokens_are_the_librarys_map_row_by_row(save, kind, stage):
    folder = save(kind)
    map_BDhw = library(folder, pixels(), stage)
    spec = resolve_expert(NAME, weights=folder, stage=stage)
    assert (spec.tokens.width, spec.tokens.grid) == (map_BDhw.shape[1], map_BDhw.shape[2:])
    assert (spec.image.size, spec.image.mean) == ((SIDE, SIDE), (0.5, 0.5, 0.5))
    tokens = build_expert(NAME, weights=folder, stage=stage)(pixels())
    torch.testing.assert_close(tokens, map_BDhw.flatten(2).transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifiers_file_gives_its_trunk(save, kind):
    folder = save(kind, "AutoModelForImageClassification")
    tokens = build_expert(NAME, weights=folder)(pixels())
    map_BDhw = library(folder, pixels(), -1)
    torch.testing.assert_close(tokens, map_BDhw.flatten(2).transpose(1, 2))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["resnet", "swin", "dinov2"])
def test_another_image_size_gives_another_grid(save, kind):
    folder = save(kind)
    images = pixels(96, 32)
    spec = resolve_expert(NAME, weights=folder, image_size=(96, 32))
    map_BDhw = library(folder, images, -1)
    assert spec.tokens.grid == map_BDhw.shape[2:]
    tokens = build_expert(NAME, weights=folder, image_size=(96, 32))(images)
    torch.testing.assert_close(tokens, map_BDhw.flatten(2).transpose(1, 2))


def test_the_static_spec_is_that_of_its_options():
    static = resolve_expert(NAME)
    measured = resolve_expert(NAME, stage=-1)
    assert (measured.tokens, measured.image) == (static.tokens, static.image)
    assert resolve_expert(NAME, stage=1).tokens.grid == (56, 56)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"stage": 5}, "stage=5 is not there: this swin has 5, stem, stage1"),
        ({"stage": -6}, "stage=-6 is not there"),
        ({"image_size": 250}, r"250 x 250 pixels, which do not tile it.*divides by the stage's"),
        ({"image_size": 0}, "one side or"),
        ({"config": {"model_type": "bert"}}, "no model_type 'bert'.* there are .*swin"),
    ],
)
def test_wrong_options_are_sentences(config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert(NAME, **config)


def test_a_size_that_the_model_refuses_is_a_sentence(save):
    folder = save("vitdet")
    with pytest.raises(ExpertBuildError, match=r"vitdet .*70 x 70 pixels"):
        resolve_expert(NAME, weights=folder, image_size=70)


@pytest.mark.parametrize(
    ("config", "expert"),
    [
        (transformers.DINOv3ViTConfig(), "dinov3_vitb16"),
        (transformers.DPTConfig(), "dpt_large"),
        (transformers.TimmWrapperConfig(), "timm"),
    ],
)
def test_a_model_that_has_an_expert_of_its_own_is_sent_there(tmp_path, config, expert):
    config.save_pretrained(tmp_path)
    with pytest.raises(ExpertBuildError, match=f"take the expert '{expert}'"):
        resolve_expert(NAME, weights=tmp_path)


def test_a_folder_must_say_what_its_model_takes(save):
    folder = save("resnet")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ExpertBuildError, match=r"holds no preprocessor_config\.json"):
        resolve_expert(NAME, weights=folder)


def test_weights_cut_short_are_refused(save):
    folder = save("resnet")
    model = transformers.ResNetBackbone.from_pretrained(folder)
    state = {key: value for key, value in model.state_dict().items() if "stages.1" not in key}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ExpertBuildError, match="would stay random"):
        build_expert(NAME, weights=folder)
