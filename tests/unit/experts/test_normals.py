"""Normals are those of the depth that transformers predicts, and exact on planes."""

import math

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from tove_experts.normals import normals_of
from tove_plugins import ExpertBuildError, build_expert, resolve_expert

NAME = "normal_depth_anything_v2"
SIDE = 56


def config_of(**options):
    backbone = transformers.Dinov2Config(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        out_indices=[1, 2],
        reshape_hidden_states=False,
    )
    return transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=24,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 12],
        fusion_hidden_size=16,
        head_hidden_size=8,
        patch_size=14,
        **options,
    )


@pytest.fixture
def saved(tmp_path):
    """A random network of metric depth and its folder."""
    torch.manual_seed(0)
    config = config_of(depth_estimation_type="metric", max_depth=20)
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.head.conv3.weight.data *= 0.01  # far from both ends of the sigmoid before the depth
    model.save_pretrained(tmp_path)
    return model, tmp_path


def points(depth_BHW, focal):
    """Give what every pixel of a depth map shows, [B, H, W, 3]: to the right, down, away."""
    height, width = depth_BHW.shape[1:]
    v_HW, u_HW = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    rays = torch.stack([u_HW / focal, v_HW / focal, torch.ones_like(u_HW)], dim=-1)
    return depth_BHW.unsqueeze(-1) * rays


@pytest.mark.parametrize("normal", [(0, 0, -1), (0, -2, -1), (1, 1, -3), (-0.3, 0.2, -1)])
def test_a_plane_has_its_normal_everywhere(normal):
    expected = F.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
    focal, distance = 9.0, 3.0
    rays = points(torch.ones(1, 6, 8, dtype=torch.float64), focal)
    depth = -distance / (rays @ expected)  # where the ray meets the plane n . P = -distance
    assert (depth > 0).all()
    found = normals_of(1 / depth, focal)
    torch.testing.assert_close(found, expected.view(1, 3, 1, 1).expand(1, 3, 6, 8))
    torch.testing.assert_close(normals_of(7 / depth, focal), found)  # in any unit


def test_a_smooth_surface_has_the_cross_products_of_its_points():
    v, u = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    depth = (3 + 0.5 * torch.sin(u / 15) * torch.cos(v / 12)).double().unsqueeze(0)
    right, down = torch.gradient(points(depth, 90.0), dim=(2, 1))
    expected = F.normalize(torch.linalg.cross(down, right), dim=-1).permute(0, 3, 1, 2)
    found = normals_of(1 / depth, 90.0)
    assert (found * expected).sum(1)[:, 1:-1, 1:-1].min() > math.cos(math.radians(1))
    assert found.std(dim=(2, 3)).min() > 0.05, "a plane would show little"


@torch.no_grad()
@pytest.mark.parametrize("stride", [7, 2])
def test_tokens_are_the_normals_of_the_librarys_depth(saved, stride):
    model, folder = saved
    images = torch.randn(2, 3, SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(1))
    options = {"weights": folder, "image_size": (SIDE, 2 * SIDE), "stride": stride}
    spec = resolve_expert(NAME, field_of_view=90, **options)
    grid = (SIDE // stride, 2 * SIDE // stride)
    assert (spec.tokens.width, spec.tokens.grid, spec.tokens.kind) == (3, grid, "map")
    depth = model(images).predicted_depth
    inverse = F.avg_pool2d(1 / depth.unsqueeze(1), stride).squeeze(1)
    expected = normals_of(inverse, grid[0] / 2).flatten(2).transpose(1, 2)  # tan(45 degrees) is 1
    tokens = build_expert(NAME, field_of_view=90, **options)(images)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    assert tokens[..., :2].std(dim=1).min() > 1e-3, "a plane would show nothing"


def test_the_static_spec_is_that_of_its_options():
    static, found = resolve_expert(NAME), resolve_expert(NAME, stride=7)
    assert (found.tokens, found.image) == (static.tokens, static.image)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"stride": 5}, "does not divide into tokens of stride 5"),
        ({"image_size": 512}, "does not divide into patches of 14"),
        ({"field_of_view": 180}, "field_of_view is 180; give the degrees"),
    ],
)
def test_wrong_options_are_sentences(config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert(NAME, **config)


def test_relative_depth_has_no_normals(tmp_path):
    config_of(depth_estimation_type="relative").save_pretrained(tmp_path)
    with pytest.raises(ExpertBuildError, match=r"predict relative depth.*Metric"):
        build_expert(NAME, weights=tmp_path)
