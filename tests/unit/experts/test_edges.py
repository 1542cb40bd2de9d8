"""DexiNed gives the edges that kornia's own detector gives."""

import pytest
import torch
from kornia.contrib.edge_detection import EdgeDetectorBuilder
from torch import nn
from torch.nn import functional as F

from tove_plugins import ExpertBuildError, build_expert, resolve_expert

NAME = "edge_dexined"


@pytest.fixture(scope="module")
def detector():
    """Kornia's way from RGB in [0, 1] to probabilities of edges, with random weights."""
    torch.manual_seed(0)
    built = EdgeDetectorBuilder.build("dexined", pretrained=False).eval()
    for module in built.modules():  # none at a start that hides its part
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor)
    built.model[1].block_cat.conv.weight.data.uniform_(-1, 1)
    return built.model


@pytest.fixture(scope="module")
def weights(detector, tmp_path_factory):
    file = tmp_path_factory.mktemp("dexined") / "DexiNed.pth"
    torch.save(detector[1].state_dict(), file)
    return file


@torch.no_grad()
@pytest.mark.parametrize(("size", "stride"), [((64, 64), 1), ((64, 64), 4), ((48, 80), 8)])
def test_tokens_are_the_detectors_probabilities_averaged_over_cells(
    detector, weights, size, stride
):
    pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    options = {"weights": weights, "image_size": size, "stride": stride}
    spec = resolve_expert(NAME, **options)
    assert (spec.tokens.width, spec.tokens.kind) == (1, "map")
    assert spec.tokens.grid == (size[0] // stride, size[1] // stride)
    low, high = spec.image.value_range
    mean, std = (torch.tensor(side)[:, None, None] for side in (spec.image.mean, spec.image.std))
    images = (pixels * (high - low) + low - mean) / std  # as the core does
    expected = F.avg_pool2d(detector(pixels), stride)
    assert expected.std() > 1e-2, "a flat map would show nothing"
    tokens = build_expert(NAME, **options)(images)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_the_static_spec_is_that_of_its_options():
    static, found = resolve_expert(NAME), resolve_expert(NAME, stride=4)
    assert (found.tokens, found.image) == (static.tokens, static.image)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"stride": 5}, "224 x 224 pixels does not divide into tokens of stride 5"),
        ({"stride": 0.5}, "whole number of pixels"),
        ({"image_size": (352, 350)}, "352 x 350 pixels does not divide"),
    ],
)
def test_wrong_options_are_sentences(config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert(NAME, **config)


def test_a_file_of_another_model_is_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(ExpertBuildError, match="does not hold DexiNed's weights"):
        build_expert(NAME, weights=file)
    torch.save([torch.zeros(2)], file)
    with pytest.raises(ExpertBuildError, match="does not hold DexiNed's weights"):
        build_expert(NAME, weights=file)
